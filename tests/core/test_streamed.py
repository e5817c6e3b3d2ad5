"""Maps that are never held, against the map written out whole by float64 loops and by the mask's own definition."""
