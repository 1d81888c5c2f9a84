"""SSDLite over the stages of a MobileOne: anchors, matching, encoding, loss, decoding, NMS."""
