# Everything runs in .venv, made on first use; only Python 3.11, pip and make are needed.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SHARED := ../shared
export TF_CPP_MIN_LOG_LEVEL ?= 3

# ImageNet weights where they lie beside the project or where you say; else those of ten classes
# that come with the package.
ifneq ($(wildcard $(SHARED)/weights),)
export KERAS_MOBILEONE_WEIGHTS ?= $(abspath $(SHARED)/weights)
endif
WEIGHTS ?= $(if $(KERAS_MOBILEONE_WEIGHTS),imagenet,imagenette)
ifneq ($(wildcard $(SHARED)/imagenet-sample/images),)
CALIBRATION := --calibration $(SHARED)/imagenet-sample/images
endif

.PHONY: demo test lint readme clean

demo: $(VENV)/installed  ## MobileOne-S0 from weights to verified TFLite files in demo/
	$(BIN)/keras-mobileone deploy --variant s0 --weights $(WEIGHTS) $(CALIBRATION) --output demo

test: lint  ## every test, the slow ones too
	$(BIN)/python -m pytest tests

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

readme: $(VENV)/installed  ## the tables of README.md from the stored results
	$(BIN)/python benchmarks/readme.py

$(VENV)/installed: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build demo *.egg-info
