"""Charts of a report and of a comparison: SVG drawn from the Vega-Lite specs of this package, with their numbers."""
