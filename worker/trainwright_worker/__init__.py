"""Everything that runs inside a training pod."""
