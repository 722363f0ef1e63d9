"""Work that makes data, trains and measures in one go: demo, comparison, sweep."""
