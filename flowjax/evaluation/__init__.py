"""What one does with a trained run: many samples on disk, trajectories for a student, tables of measures."""
