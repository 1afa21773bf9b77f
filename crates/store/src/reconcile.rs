//! Listing what is held here, for reconciliation.

use std::collections::HashSet;
use std::sync::Arc;

use blazedb_core::blazebinary::{FieldNo, RecordView};
use blazedb_core::cell::Content;
use blazedb_core::merge::RecordState;
use blazedb_core::session::{ReconcileItem, ReconcileSet};
use blazedb_core::topology::EncryptionSpec;
use blazedb_core::version;
use blazedb_core::view::{Lens, Side};

use crate::error::StoreError;
use crate::judge::{Judge, Verdict};
use crate::names::NameTable;
use crate::row::{ALIVE, StoredRow};
use crate::store::Store;

impl Store {
    /// Hashes of every record that a reader is shown, at one moment, without the fields that its view leaves out.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn reconcile_set(&self, lens: &Lens) -> Result<ReconcileSet, StoreError> {
        let head = self.head();
        self.read(|db| {
            let sqlite = |error| self.sqlite(error);
            let names = self.public_names()?;
            let sealed = self.keys().rule() != EncryptionSpec::SmartProxy;
            let judge = Judge::new(self, db, &names.table, lens, (0, 0));
            let mut set = ReconcileSet::default();
            let leaving = match lens.side {
                Side::Deliver => self.all_leaving(db).map_err(sqlite)?,
                Side::Serve => HashSet::new(),
            };
            let sql = "SELECT seq, id, state, origin, tx, history, body FROM records ORDER BY seq";
            let mut statement = db.prepare_cached(sql).map_err(sqlite)?;
            let mut rows = statement.query([]).map_err(sqlite)?;
            while let Some(row) = rows.next().map_err(sqlite)? {
                let row = StoredRow::read(row).map_err(sqlite)?;
                set.snapshot = row.seq;
                // A tombstone tells a reader that does not see everything of a record that it may never have seen.
                let told = row.state == ALIVE || lens.side == Side::Deliver || lens.view.is_all();
                if !told || judge.on_request(&row)? == Verdict::Nothing {
                    set.unshown.extend((row.state == ALIVE && lens.side == Side::Deliver).then_some(row.id));
                    continue;
                }
                let mut state = row.decode(&names.table)?;
                state.cells.retain(|(field, _)| !judge.hidden().contains(field));
                let mut history = history_item(&row, &state, &names);
                // A hash of readable contents would let a hub guess them.
                let mut content = if sealed || has_sealed(&state) {
                    ReconcileItem { order: row.id.millis().unwrap_or(0), ..history }
                } else {
                    content_item(&row, &state, &names, judge.hidden())?
                };
                if leaving.contains(&row.id) {
                    // It stays if the other side shows it: it has to come from there, even if it is the same.
                    for item in [&mut history, &mut content] {
                        item.hash = item.hash.map(|byte| !byte);
                    }
                }
                set.history.push(history);
                set.content.push(content);
            }
            set.snapshot = set.snapshot.max(head);
            Ok(set)
        })
    }
}

impl Store {
    /// Names as others know them.
    fn public_names(&self) -> Result<PublicNames, StoreError> {
        let table = self.names();
        let sealer = self.sealer().filter(|sealer| sealer.seals());
        let public = |name: &Arc<str>| match &sealer {
            Some(sealer) => sealer.public_name(name).map(Arc::from),
            None => Ok(Arc::clone(name)),
        };
        let public = table.fields().map(public).collect::<Result<_, _>>()?;
        Ok(PublicNames { table, public })
    }
}

struct PublicNames {
    table: Arc<NameTable>,
    public: Vec<Arc<str>>,
}

fn name_of(names: &PublicNames, no: u32) -> &str {
    names.public.get(no as usize).map_or("", |name| name)
}

fn has_sealed(state: &RecordState) -> bool {
    state.cells.iter().any(|(_, cell)| matches!(cell.content, Content::Sealed(_)))
}

fn history_item(row: &StoredRow, state: &RecordState, names: &PublicNames) -> ReconcileItem {
    let order = state.newest().map_or(0, |stamp| stamp.time.millis());
    let hash = version::history(row.id, state, |no| name_of(names, no));
    ReconcileItem { order, hash, id: row.id }
}

fn content_item(
    row: &StoredRow,
    state: &RecordState,
    names: &PublicNames,
    hidden: &HashSet<FieldNo>,
) -> Result<ReconcileItem, StoreError> {
    let hash = if row.state == ALIVE {
        let view = RecordView::parse(&row.body)?;
        let shown = view.iter().filter(|(no, _)| !hidden.contains(no));
        let fields = shown.map(|(no, raw)| (name_of(names, no), raw.payload(), raw.tag())).collect();
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
