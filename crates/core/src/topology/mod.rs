//! Topology specification.
