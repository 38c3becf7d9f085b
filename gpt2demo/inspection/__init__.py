"""Look inside a model: surprise, attention, heads, logit lens, growth and anatomy. The import of this package alone is light."""
