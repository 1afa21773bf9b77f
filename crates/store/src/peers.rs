//! Peer replicas: their numbers here, and how far links have their feeds.

use blazedb_core::ReplicaId;
use blazedb_core::feed::{PeerNo, Seq};
use blazedb_sqlite::rusqlite::{OptionalExtension, params};

use crate::error::StoreError;
use crate::query::clamp;
use crate::store::Store;

impl Store {
    /// Whether this database was ever linked to another replica.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn has_met_others(&self) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS(SELECT 1 FROM peers)";
        self.read(|db| db.query_row(sql, [], |row| row.get(0)).map_err(|error| self.sqlite(error)))
    }

    /// The number of a peer replica, given now if it is new, and the checkpoint of a link to it.
    ///
    /// # Errors
    /// If the file can't be read or written.
    pub fn peer(&self, link: &str, replica: ReplicaId) -> Result<(PeerNo, Option<Seq>), StoreError> {
        let sqlite = |error| self.sqlite(error);
        let mut slot = self.writer_slot();
        let writer = self.awake(&mut slot)?;
        let bytes = replica.as_bytes().as_slice();
        let known: Option<PeerNo> = writer
            .db
            .prepare_cached("SELECT no FROM peers WHERE replica=?")
            .and_then(|mut find| find.query_row([bytes], |row| row.get(0)).optional())
            .map_err(sqlite)?;
        let no = match known {
            Some(no) => no,
            None => {
                writer.db.execute("INSERT INTO peers(replica) VALUES(?)", [bytes]).map_err(sqlite)?;
                PeerNo::try_from(writer.db.last_insert_rowid()).unwrap_or(PeerNo::MAX)
            }
        };
        let seq = writer
            .db
            .prepare_cached("SELECT seq FROM checkpoints WHERE link=? AND replica=?")
            .and_then(|mut find| find.query_row(params![link, bytes], |row| row.get(0)).optional())
            .map_err(sqlite)?;
        Ok((no, seq))
    }

    /// What [`Store::peer`] would answer, without giving a number to a replica that is new: 0 stands for one.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn peer_as_known(&self, link: &str, replica: ReplicaId) -> Result<(PeerNo, Option<Seq>), StoreError> {
        let bytes = replica.as_bytes().as_slice();
        let sql = "SELECT (SELECT no FROM peers WHERE replica=?1),
                          (SELECT seq FROM checkpoints WHERE link=?2 AND replica=?1)";
        self.read(|db| {
            db.prepare_cached(sql)
                .and_then(|mut find| {
                    find.query_row(params![bytes, link], |row| {
                        Ok((row.get::<_, Option<PeerNo>>(0)?.unwrap_or(0), row.get(1)?))
                    })
                })
                .map_err(|error| self.sqlite(error))
        })
    }

    /// Whether a reader may stand at a place of the feed, as it says: it was here before, and is not known to have passed
    /// the place already.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn may_stand_at(&self, link: &str, replica: ReplicaId, place: Seq) -> Result<bool, StoreError> {
        let bytes = replica.as_bytes().as_slice();
        let sql = "SELECT EXISTS(SELECT 1 FROM peers WHERE replica=?1)
                   AND NOT EXISTS(SELECT 1 FROM views WHERE link=?2 AND replica=?1 AND acked>?3)";
        self.read(|db| {
            db.prepare_cached(sql)
                .and_then(|mut ask| ask.query_row(params![bytes, link, clamp(place)], |row| row.get(0)))
                .map_err(|error| self.sqlite(error))
        })
    }

    /// The replica that a link last had on its other side, and how far its feed is durable here.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn link_checkpoint(&self, link: &str) -> Result<Option<(ReplicaId, Seq)>, StoreError> {
        let sql = "SELECT replica, seq FROM checkpoints WHERE link=? ORDER BY latest DESC LIMIT 1";
        self.read(|db| {
            db.prepare_cached(sql)
                .and_then(|mut find| {
                    find.query_row([link], |row| Ok((ReplicaId::from_bytes(row.get(0)?), row.get(1)?)))
                        .optional()
                })
                .map_err(|error| self.sqlite(error))
        })
    }
}
