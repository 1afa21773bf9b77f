//! The filter language.

/// A filter.
#[derive(Debug)]
pub struct Filter;
