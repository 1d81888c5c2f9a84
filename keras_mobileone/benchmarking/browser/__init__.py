"""Latency of TFLite files in a browser, measured with LiteRT.js on a page that Python serves."""

from keras_mobileone.benchmarking.browser.target import benchmark_in_browser, export_page

__all__ = ["benchmark_in_browser", "export_page"]
