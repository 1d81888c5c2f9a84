# Everything runs in .venv, made on first use; only Python 3.11, pip and make are needed.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
MEDIAPIPE := .venv-mediapipe
SHARED := ../shared
# Processes that share the test files.
WORKERS ?= 2
export TF_CPP_MIN_LOG_LEVEL ?= 3

# ImageNet weights where they lie beside the project or where you say; else they are downloaded, or
# those of ten classes are used that come with the package.
ifneq ($(wildcard $(SHARED)/weights),)
export KERAS_MOBILEONE_WEIGHTS ?= $(abspath $(SHARED)/weights)
endif
WEIGHTS ?= auto
ifneq ($(wildcard $(SHARED)/imagenet-sample/images),)
CALIBRATION := --calibration $(SHARED)/imagenet-sample/images
PHOTOGRAPHS := --images $(SHARED)/imagenet-sample/images
endif

STUDIES := peers analysis fused dense_peers runtimes operators

.PHONY: demo check test test-fast doctest types coverage docs package test-arm64 arm64-machine lint \
	page-machine format-page test-browsers pictures results benchmark benchmark-files apk \
	test-android test-android-native android-release android-screenshots android-machine \
	android-native-machine clean

demo: $(VENV)/installed  ## MobileOne-S0 from weights to verified TFLite files in demo/
	$(BIN)/keras-mobileone deploy --variant s0 --weights $(WEIGHTS) $(CALIBRATION) --coreml \
		--output demo

# The tests by file, the longest first (see tests/conftest.py).
SHARED_OUT := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

check: test docs package test-android test-android-native  ## everything that CI runs

test: lint types doctest $(MEDIAPIPE)/installed page-machine  ## ruff, mypy, every example, every test
	$(BIN)/python -m pytest $(SHARED_OUT) tests

# What the tests of the benchmark page need. Where it can't be had, they skip and say so.
page-machine:  # Chromium and Node.js from Debian where root may, the packages of tests/browser by npm
	@which chromium node npm >/dev/null || test "$$(id -u)" != 0 || \
		{ apt-get -qq update && apt-get -qq install --no-install-recommends -y \
		chromium nodejs npm; } || true
	@test tests/browser/node_modules -nt tests/browser/package-lock.json || ! which npm >/dev/null || \
		{ npm ci --prefix tests/browser --silent --no-audit --no-fund \
		&& touch tests/browser/node_modules; } || true

format-page: page-machine  ## the page's own formatter
	node tests/browser/node_modules/prettier/bin/prettier.cjs --write \
		--config tests/browser/.prettierrc.json keras_mobileone/benchmarking/browser/page \
		tests/browser/*.js tests/browser/*.json

test-browsers: page-machine $(VENV)/installed  ## the page in Firefox ESR and WebKitGTK; Debian, root
	@which firefox-esr xvfb-run >/dev/null || { apt-get -qq update && apt-get -qq install \
		--no-install-recommends -y firefox-esr xvfb xauth python3-gi gir1.2-webkit2-4.1; }
	PYTHONPATH=tests $(BIN)/python tests/browser/other_browsers.py

pictures: page-machine $(ANDROID)/made  ## the screenshots of docs/browser.md
	$(BIN)/python benchmarks/browser.py $(ANDROID)/models --pictures

test-fast: $(VENV)/installed  ## what can be tested in three minutes, while you work
	$(BIN)/python -m pytest $(SHARED_OUT) -m "not slow" tests

doctest: $(VENV)/installed  ## the examples of the package's docstrings
	$(BIN)/python -m pytest --doctest-modules keras_mobileone

types: $(VENV)/installed  ## mypy on the package
	$(BIN)/mypy

coverage: $(VENV)/installed  ## lines and branches that the fast tests reach
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -m "not slow" tests
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

docs: $(VENV)/installed  ## the pages in site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

package: $(VENV)/installed  ## wheel and sdist in dist/, checked in an empty environment
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	PYTHON=$(PYTHON) .ci/check-package dist

test-arm64: arm64-machine $(VENV)/installed  ## the files on emulated arm64; Debian on x86-64, root
	PYTHONPATH=tests $(BIN)/python -m arm64.check $(PHOTOGRAPHS) \
		--output benchmarks/results/arm64.json

arm64-machine:  # before anything is installed
	@$(PYTHON) tests/arm64/emulator.py

lint: $(VENV)/installed  ## ruff, which leaves out directories called build unless they are named
	$(BIN)/ruff check . android_app/build/*.py
	$(BIN)/ruff format --check . android_app/build/*.py

results: $(VENV)/installed  ## the tables of README.md and docs/ from the stored results
	$(BIN)/python benchmarks/results_pages.py

benchmark: benchmark-files  ## every study of latency: 40 minutes in which nothing else may run
	for study in $(STUDIES); do $(BIN)/python benchmarks/$$study.py $(OPTIONS) || exit; done
	$(MAKE) results

benchmark-files: $(VENV)/installed  ## the files that `make benchmark` measures, into build/peers
	for study in $(STUDIES); do $(BIN)/python benchmarks/$$study.py --prepare || exit; done

# The Android app, without Google's Maven repository: a JDK of version 21 or later, and from Debian
# the programs that the two targets called `…-machine` install where root may.
ANDROID := build/android
ANDROID_BUILD := $(PYTHON) android_app/build/build.py
ANDROID_OPTIONS := --out $(ANDROID) --models $(ANDROID)/models --fixtures $(ANDROID)/fixtures

android-machine:  # elsewhere the build names the first program that is missing
	@which mvn aapt2 apksigner zipalign dexdump >/dev/null || test "$$(id -u)" != 0 || \
		{ apt-get -qq update && apt-get -qq install --no-install-recommends -y \
		maven aapt apksigner zipalign dexdump; }

android-native-machine: android-machine
	@which gcc aarch64-linux-gnu-gcc qemu-aarch64-static >/dev/null || test "$$(id -u)" != 0 || \
		{ apt-get -qq update && apt-get -qq install --no-install-recommends -y \
		gcc libc6-dev gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static; }

apk: android-machine $(ANDROID)/made  ## the Android app with MobileOne-S0 in it, signed with a debug key
	$(ANDROID_BUILD) apk $(ANDROID_OPTIONS)

# In the end the command line reads the result that the app stored in its tests.
test-android: android-machine $(ANDROID)/made  ## the app's core, engines and screens with real models; Lint
	$(ANDROID_BUILD) test $(ANDROID_OPTIONS)
	$(ANDROID_BUILD) lint $(ANDROID_OPTIONS)
	$(BIN)/keras-mobileone benchmark --show $(ANDROID)/screenshots/desk.json

android-screenshots: test-android  ## the pictures of the app in docs/
	$(BIN)/python android_app/app/src/test/python/documented_screenshots.py \
		$(ANDROID)/screenshots docs/images/android

test-android-native: android-native-machine $(ANDROID)/made  ## the APK's own libraries, for x86-64 and arm64
	$(BIN)/python android_app/build/build.py native $(ANDROID_OPTIONS)

android-release: android-machine $(ANDROID)/made  ## the app without unused code, its shrunk classes tested
	$(ANDROID_BUILD) release $(ANDROID_OPTIONS)

# The models in the app, and the numbers that its tests compare with.
$(ANDROID)/made: $(VENV)/installed android_app/core/src/test/python/fixtures.py
	mkdir -p $(ANDROID)
	$(BIN)/keras-mobileone deploy --variant s0 --weights $(WEIGHTS) $(CALIBRATION) \
		--output $(ANDROID)/models
	$(BIN)/python android_app/core/src/test/python/fixtures.py $(ANDROID)/models $(ANDROID)/fixtures
	touch $@

$(VENV)/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

# By itself: it wants another absl-py than tensorflow-model-optimization.
$(MEDIAPIPE)/installed: Makefile
	test -x $(MEDIAPIPE)/bin/python || $(PYTHON) -m venv $(MEDIAPIPE)
	$(MEDIAPIPE)/bin/python -m pip install --quiet --upgrade pip
	$(MEDIAPIPE)/bin/python -m pip install --quiet "mediapipe>=1.2.2,<2"
	touch $@

clean:
	rm -rf $(VENV) $(MEDIAPIPE) .arm64 build demo dist site .coverage* *.egg-info
