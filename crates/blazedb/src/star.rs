//! A star: children whose writes their parent decides about.

use blazedb_core::RecordId;
use blazedb_store::StoreError;

use crate::database::Database;
use crate::topology::Topology;

impl Topology {
    /// Records with writes that an authority has not decided about yet. It may take them, put its own value in their
    /// place ([`Database::conflicts`]), or refuse them ([`Database::rejected`]).
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn provisional(&self, database: &Database) -> Result<Vec<RecordId>, StoreError> {
        let mut all = Vec::new();
        for (_, link) in self.links() {
            let own = self.database(&link.database).is_some_and(|known| known.is(database));
            if own && link.authority && link.mode.direction().push {
                all.extend(database.store().pending_ids(link.session.pushed, link.peer_no)?);
            }
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }
}
