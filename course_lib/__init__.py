"""The library of the course: every paper in full, and the classroom around it."""
