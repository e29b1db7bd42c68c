"""What travels with a student in MLflow. It runs without the rest of the package, under any name: relative imports alone."""
