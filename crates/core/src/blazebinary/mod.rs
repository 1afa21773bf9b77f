//! BlazeBinary.
