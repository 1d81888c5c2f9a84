"""`python -m keras_mobileone`."""

from keras_mobileone.cli import main

main()
