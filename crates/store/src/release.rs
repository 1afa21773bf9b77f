//! Letting go of records that a sink has: a device that only reports does not fill up.

use blazedb_core::blazebinary::RecordView;
use blazedb_core::feed::Seq;
use blazedb_core::view::View;
use blazedb_sqlite::rusqlite::Result;

use crate::error::StoreError;
use crate::functions::StoredFields;
use crate::query::clamp;
use crate::row::{ALIVE, StoredRow};
use crate::schema::set_meta;
use crate::store::{Store, Writer};

/// Records looked at in one commit, at most: others want to write too.
const CHUNK: u64 = 10_000;

impl Store {
    /// Drops every record that did not change behind `upto`, which somebody else has acknowledged, if all of it was
    /// shown: a record or field that a policy held back is nowhere else. Nothing is told to anybody: a live query that shows one
    /// goes on showing it until it starts anew.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn release(&self, upto: Seq, view: &View) -> std::result::Result<u64, StoreError> {
        let (mut released, mut after) = (0, 0);
        while after < upto {
            let (dropped, last) = self.commit(|writer| {
                let sqlite = |error| self.sqlite(error);
                // The feed must not begin again where it was: what is written next has to be sent.
                set_meta(&writer.db, "seq_floor", clamp(writer.next_seq - 1)).map_err(sqlite)?;
                self.release_stretch(writer, (after, upto), view).map_err(sqlite)
            })?;
            released += dropped;
            after = last;
        }
        Ok(released)
    }

    /// Answers how many records went, and how far it looked.
    fn release_stretch(&self, writer: &Writer, (after, upto): (Seq, Seq), view: &View) -> Result<(u64, Seq)> {
        let sql = "SELECT seq, id, state, origin, tx, history, body FROM records WHERE seq>? AND seq<=? ORDER BY seq LIMIT ?";
        let (mut shown, mut last, mut looked_at) = (Vec::new(), upto, 0);
        let hidden: Vec<_> = view.excluded().filter_map(|name| writer.names.field_no(name)).collect();
        {
            let mut list = writer.db.prepare_cached(sql)?;
            let mut rows = list.query([clamp(after), clamp(upto), clamp(CHUNK)])?;
            while let Some(row) = rows.next()? {
                let row = StoredRow::read(row)?;
                looked_at += 1;
                last = row.seq;
                let fields = StoredFields {
                    id: row.id,
                    body: RecordView::parse(&row.body).ok(),
                    names: &writer.names,
                };
                let holds_back =
                    |body: &RecordView<'_>| hidden.iter().any(|field| body.get(*field).is_some());
                let all_shown = view.matches(&fields) && !fields.body.as_ref().is_some_and(holds_back);
                shown.extend((row.state != ALIVE || all_shown).then_some(row.seq));
            }
        }
        let mut drop = writer.db.prepare_cached("DELETE FROM records WHERE seq=?")?;
        shown.iter().try_for_each(|seq| drop.execute([clamp(*seq)]).map(|_| ()))?;
        Ok((shown.len() as u64, if looked_at < CHUNK { upto } else { last }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use blazedb_core::filter::Filter;
    use blazedb_core::view::View;

    use crate::{Password, Store, StoreOptions};

    /// A field that the policy leaves out is nowhere else.
    #[test]
    fn a_record_with_a_field_that_did_not_travel_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("x"), &Password::Plaintext, StoreOptions::default()).unwrap();
        let write = |field: &str| {
            let id = store.new_id().unwrap();
            let fields = BTreeMap::from([(field.to_owned(), 1.into())]);
            store.transaction(|tx| tx.insert(id, &fields)).unwrap();
            id
        };
        let [told, kept] = ["n", "photo"].map(write);
        let view = View::new(Filter::always(true), Filter::always(true), ["photo".into()].into_iter());
        assert_eq!(store.release(2, &view).unwrap(), 1);
        assert_eq!([told, kept].map(|id| store.get(id).unwrap().is_some()), [false, true]);
    }

    #[test]
    fn a_feed_that_was_let_go_of_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let open =
            || Store::open(dir.path().join("x"), &Password::Plaintext, StoreOptions::default()).unwrap();
        let store = open();
        let write = |store: &Store| {
            let id = store.new_id().unwrap();
            store.transaction(|tx| tx.insert(id, &BTreeMap::new())).unwrap();
            id
        };
        let [first, second, third] = [write(&store), write(&store), write(&store)];
        assert_eq!(store.release(2, &View::all()).unwrap(), 2);
        let here = [first, second, third].map(|id| store.get(id).unwrap().is_some());
        assert_eq!((here, store.head()), ([false, false, true], 3));
        store.release(3, &View::all()).unwrap();
        drop(store);
        let store = open();
        write(&store);
        assert_eq!(store.head(), 4, "no sequence is used twice");
    }
}
