//! Listing what is held here, for reconciliation.

use blazedb_core::blazebinary::RecordView;
use blazedb_core::merge::RecordState;
use blazedb_core::session::{ReconcileItem, ReconcileSet};
use blazedb_core::version;

use crate::error::StoreError;
use crate::names::NameTable;
use crate::row::{ALIVE, StoredRow};
use crate::store::Store;

impl Store {
    /// Hashes of every record, at one moment.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn reconcile_set(&self) -> Result<ReconcileSet, StoreError> {
        let head = self.head();
        self.read(|db| {
            let sqlite = |error| self.sqlite(error);
            let names = self.names();
            let mut set = ReconcileSet::default();
            let sql = "SELECT seq, id, state, origin, tx, history, body FROM records ORDER BY seq";
            let mut statement = db.prepare_cached(sql).map_err(sqlite)?;
            let mut rows = statement.query([]).map_err(sqlite)?;
            while let Some(row) = rows.next().map_err(sqlite)? {
                let row = StoredRow::read(row).map_err(sqlite)?;
                let state = row.decode(&names)?;
                set.history.push(history_item(&row, &state, &names));
                set.content.push(content_item(&row, &state, &names)?);
                set.snapshot = row.seq;
            }
            set.snapshot = set.snapshot.max(head);
            Ok(set)
        })
    }
}

fn name_of(names: &NameTable, no: u32) -> &str {
    names.field(no).map_or("", |name| name)
}

fn history_item(row: &StoredRow, state: &RecordState, names: &NameTable) -> ReconcileItem {
    let order = state.newest().map_or(0, |stamp| stamp.time.millis());
    let hash = version::history(row.id, state, |no| name_of(names, no));
    ReconcileItem { order, hash, id: row.id }
}

fn content_item(
    row: &StoredRow,
    state: &RecordState,
    names: &NameTable,
) -> Result<ReconcileItem, StoreError> {
    let hash = if row.state == ALIVE {
        let view = RecordView::parse(&row.body)?;
        let fields = view.iter().map(|(no, raw)| (name_of(names, no), raw.payload(), raw.tag())).collect();
        let mut cells: Vec<_> =
            state.cells.iter().map(|(no, cell)| (name_of(names, *no), &cell.content)).collect();
        cells.sort_unstable_by_key(|(name, _)| *name);
        let contents: Vec<_> = cells.into_iter().map(|(_, content)| content).collect();
        version::content(row.id, fields, &contents)
    } else {
        // Nothing to see, but perhaps much to exchange: a tombstone, or updates of what has not arrived yet.
        version::history(row.id, state, |no| name_of(names, no))
    };
    Ok(ReconcileItem { order: row.id.millis().unwrap_or(0), hash, id: row.id })
}
