//! Tests of the live log as a whole; those of its parts stand beside the parts.
