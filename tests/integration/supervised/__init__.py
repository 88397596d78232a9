"""Programs that stand in for the parts around the supervisor, and the rig that runs them."""
