"""The MobileOne block and how it trains."""
