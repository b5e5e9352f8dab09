"""`cutpoint watch`: live positives beside those that the calibration expects, in a terminal."""
