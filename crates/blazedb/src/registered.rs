//! What names a database of a topology.

use std::sync::Arc;

use crate::database::Database;
use crate::topology::DatabaseNode;

/// What stands for a database of a [`Topology`](crate::Topology): itself, or what [`Topology::register`](crate::Topology::register) answered.
pub trait Registered {
    /// Whether it is this one.
    fn is(&self, node: &DatabaseNode, database: &Database) -> bool;
    /// What it is called in errors.
    fn called(&self) -> String;
}

impl<R: Registered + ?Sized> Registered for &R {
    fn is(&self, node: &DatabaseNode, database: &Database) -> bool {
        (**self).is(node, database)
    }

    fn called(&self) -> String {
        (**self).called()
    }
}

impl Registered for DatabaseNode {
    fn is(&self, node: &DatabaseNode, _: &Database) -> bool {
        self == node
    }

    fn called(&self) -> String {
        self.name().to_owned()
    }
}

impl Registered for Database {
    fn is(&self, _: &DatabaseNode, database: &Database) -> bool {
        Arc::ptr_eq(&self.inner, &database.inner)
    }

    fn called(&self) -> String {
        self.store().path().display().to_string()
    }
}
