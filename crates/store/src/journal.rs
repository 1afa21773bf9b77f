//! Decisions about transactions over several files: `NAME-tx`, beside the file of the transaction's first database.
//!
//! ```text
//! journal = "BLZT" version(1) 0 0 0 id(16) record*
//! record  = transaction(16) check(8)      ; check: SHA-256("blazedb commit" || id || transaction), its start
//! ```
//!
//! Invariants: a record stands here only after every file has its part of the transaction prepared, durably. It is
//! removed only after every file has applied its part, durably. A record that is cut off is none. Whoever acts on
//! what it read makes it durable first. The journal is not encrypted: it holds nothing but random ids.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::{digest, rand};

use crate::care::{sibling, sync_file};
use crate::error::StoreError;

/// Names a transaction over several files.
pub type TransactionId = uuid::Uuid;

const MAGIC: [u8; 8] = *b"BLZT\x01\0\0\0";
const HEADER_LEN: usize = 24;
const RECORD_LEN: usize = 24;

/// The journal of one database, open to write.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    id: [u8; 16],
    len: u64,
}

/// What a journal says of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Decision {
    /// It happened.
    Committed,
    /// It did not happen, and never will.
    Dropped,
    /// The journal is not there, or is another one.
    Unknown,
}

impl Journal {
    /// The journal beside the database at `path`.
    pub(crate) fn open(database: &Path) -> Result<Self, StoreError> {
        let path = Self::path_of(database);
        let io = |error| StoreError::Io(path.clone(), error);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let (id, len) = match parse(&bytes) {
            Some((id, records)) => (id, (HEADER_LEN + records.len() * RECORD_LEN) as u64),
            // New, or cut off before any transaction could name it.
            None if bytes.len() < HEADER_LEN => {
                let mut id = [0; 16];
                rand::fill(&mut id).map_err(|_| StoreError::Kdf("no randomness".to_owned()))?;
                file.seek(SeekFrom::Start(0)).map_err(io)?;
                file.write_all(&[&MAGIC[..], &id].concat()).map_err(io)?;
                (id, HEADER_LEN as u64)
            }
            None => return Err(StoreError::Damaged(path, "it is no journal of transactions".to_owned())),
        };
        file.set_len(len).map_err(io)?;
        sync_file(&path)?;
        Ok(Self { path, file, id, len })
    }

    pub(crate) fn path_of(database: &Path) -> PathBuf {
        sibling(&std::path::absolute(database).unwrap_or_else(|_| database.to_owned()), "-tx")
    }

    pub(crate) const fn id(&self) -> [u8; 16] {
        self.id
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Decides that the transaction happened. `written` is called between the write and the moment it is durable.
    pub(crate) fn commit(
        &mut self,
        transaction: TransactionId,
        written: impl FnOnce(),
    ) -> Result<(), StoreError> {
        let io = |error| StoreError::Io(self.path.clone(), error);
        let record = record(&self.id, transaction);
        let done = self
            .file
            .seek(SeekFrom::Start(self.len))
            .and_then(|_| self.file.write_all(&record))
            .inspect(|()| written())
            .and_then(|()| self.file.sync_all());
        match done {
            Ok(()) => {
                self.len += RECORD_LEN as u64;
                Ok(())
            }
            Err(error) => {
                // What may have reached the disk must not be found there later.
                self.file.set_len(self.len).and_then(|()| self.file.sync_all()).map_err(io)?;
                Err(io(error))
            }
        }
    }

    /// Forgets the last transaction, which every file has applied. If that gets lost, nothing is.
    pub(crate) fn forget_last(&mut self) {
        let len = self.len - RECORD_LEN as u64;
        if self.file.set_len(len).is_ok() {
            self.len = len;
        }
    }
}

/// What the journal at one of `paths` with this id says of a transaction.
pub(crate) fn decision(
    paths: &[PathBuf],
    id: [u8; 16],
    transaction: TransactionId,
) -> Result<Decision, StoreError> {
    for path in paths {
        let io = |error| StoreError::Io(path.clone(), error);
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(io(error)),
        };
        file.sync_all().map_err(io)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        if let Some((found, records)) = parse(&bytes)
            && found == id
        {
            let committed = records.contains(&transaction);
            return Ok(if committed { Decision::Committed } else { Decision::Dropped });
        }
    }
    Ok(Decision::Unknown)
}

/// The id, and the transactions up to the first record that does not hold.
fn parse(bytes: &[u8]) -> Option<([u8; 16], Vec<TransactionId>)> {
    let (magic, rest) = bytes.split_first_chunk::<8>()?;
    let (id, rest) = rest.split_first_chunk::<16>()?;
    let transaction = |record_bytes: &[u8]| {
        let transaction = TransactionId::from_bytes(*record_bytes.first_chunk()?);
        (record_bytes == record(id, transaction)).then_some(transaction)
    };
    let records = rest.chunks(RECORD_LEN).map_while(transaction).collect();
    (*magic == MAGIC).then_some((*id, records))
}

fn record(id: &[u8; 16], transaction: TransactionId) -> [u8; RECORD_LEN] {
    let input = [b"blazedb commit".as_slice(), id, transaction.as_bytes()].concat();
    let hash = digest::digest(&digest::SHA256, &input);
    let mut record = [0; RECORD_LEN];
    let (name, check) = record.split_at_mut(16);
    name.copy_from_slice(transaction.as_bytes());
    check.copy_from_slice(hash.as_ref().first_chunk::<8>().map_or(&[0; 8][..], |start| start));
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_committed_exactly_when_its_whole_record_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("a.blazedb");
        let ids = [1, 2, 3].map(|n| TransactionId::from_bytes([n; 16]));
        let mut journal = Journal::open(&database).unwrap();
        let (id, paths) = (journal.id(), [dir.path().join("nowhere"), journal.path().to_owned()]);
        let said = |transaction| decision(&paths, id, transaction).unwrap();
        assert_eq!(said(ids[0]), Decision::Dropped);
        journal.commit(ids[0], || ()).unwrap();
        journal.commit(ids[1], || ()).unwrap();
        assert_eq!(ids.map(said), [Decision::Committed, Decision::Committed, Decision::Dropped]);
        journal.forget_last();
        assert_eq!(ids.map(said), [Decision::Committed, Decision::Dropped, Decision::Dropped]);
        journal.commit(ids[2], || ()).unwrap();
        drop(journal);
        let whole = std::fs::read(&paths[1]).unwrap();
        for cut in HEADER_LEN..=whole.len() {
            std::fs::write(&paths[1], &whole[..cut]).unwrap();
            let last = if cut == whole.len() { Decision::Committed } else { Decision::Dropped };
            assert_eq!(said(ids[2]), last, "{cut}");
        }
        std::fs::write(&paths[1], &whole[..whole.len() - 1]).unwrap();
        let mut journal = Journal::open(&database).unwrap();
        assert_eq!(journal.id(), id);
        journal.commit(ids[1], || ()).unwrap();
        assert_eq!(ids.map(said), [Decision::Committed, Decision::Committed, Decision::Dropped]);
        assert_eq!(decision(&paths, [0; 16], ids[0]).unwrap(), Decision::Unknown);
        std::fs::remove_file(&paths[1]).unwrap();
        assert_eq!(said(ids[0]), Decision::Unknown);
    }
}
