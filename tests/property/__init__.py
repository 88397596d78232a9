"""What must hold for every input: hypothesis chooses the inputs."""
