"""What the calls of all layers share: checks, dispatch, layouts, seeds, and the ways of torch's tools."""
