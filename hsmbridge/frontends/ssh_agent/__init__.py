"""The SSH agent front end: the slots of the service as the keys of `ssh`, `git` and whatever else asks an agent."""
