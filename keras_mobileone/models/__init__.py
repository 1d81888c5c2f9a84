"""Model graphs: building, fusing, splitting into branches, counting."""
