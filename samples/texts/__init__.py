"""The texts of the samples, written for this project, with the faults that a build must find."""
