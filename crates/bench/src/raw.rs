//! The raw parts: plain `rusqlite`, a bare WebSocket, bare AES-GCM.

use std::path::Path;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use blazedb::{Fields, RecordId};
use blazedb_core::blazebinary::RecordBuilder;
use blazedb_core::history::{HistoryHead, HistoryWriter};
use blazedb_core::{Hlc, ReplicaId, Stamp};
use blazedb_sqlite::rusqlite::{Connection, OptionalExtension, params};
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

use crate::error::BenchError;

/// A record as a row of a plain table: the bytes that BlazeDB writes.
pub(crate) struct Row {
    pub(crate) id: RecordId,
    pub(crate) history: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

/// Bodies of records with version 7 ids, in the order of the ids. Fields are numbered in order of their names.
pub(crate) fn rows(records: &[Fields], first: u64) -> Result<Vec<Row>, BenchError> {
    let mut builder = RecordBuilder::new();
    let mut history = Vec::new();
    let stamp = Stamp::new(Hlc::new(1_700_000_000_000, 0), ReplicaId::from_bytes([1; 16]));
    HistoryWriter { writer_no: &mut |_| 1, row_seq: None }.head(&HistoryHead::inserted(stamp), &mut history);
    let encode = |(n, fields): (u64, &Fields)| {
        let mut body = Vec::new();
        for (no, value) in (0..).zip(fields.values()) {
            builder.push(no, value).map_err(|error| BenchError::Encoding {
                encoding: "BlazeBinary",
                problem: error.to_string(),
            })?;
        }
        builder.finish_into(&mut body);
        let mut random = [0; 10];
        aws_lc_rs::rand::fill(&mut random)?;
        Ok(Row { id: RecordId::v7(1_700_000_000_000 + n, random), history: history.clone(), body })
    };
    (first..).zip(records).map(encode).collect()
}

/// A plain table in a keyed file: the cipher, log and durability that BlazeDB uses.
pub(crate) struct RawTable {
    pub(crate) db: Connection,
}

impl RawTable {
    pub(crate) fn create(path: &Path) -> Result<Self, BenchError> {
        let db = Connection::open(path)?;
        let key = "5a".repeat(48);
        db.execute_batch(&format!(
            "PRAGMA cipher='aegis'; PRAGMA key='raw:{key}'; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
             PRAGMA cache_size=-16384; PRAGMA temp_store=MEMORY;
             CREATE TABLE records(seq INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, history BLOB NOT NULL,
                 body BLOB NOT NULL);"
        ))?;
        Ok(Self { db })
    }

    /// Inserts rows in one durable transaction.
    pub(crate) fn insert(&self, rows: &[Row]) -> Result<(), BenchError> {
        let tx = self.db.unchecked_transaction()?;
        {
            let sql = "INSERT INTO records(id, history, body) VALUES(?,?,?)";
            let mut insert = self.db.prepare_cached(sql)?;
            for row in rows {
                insert.execute(params![row.id.as_bytes().as_slice(), row.history, row.body])?;
            }
        }
        tx.commit()?;
        Ok(())
    }

    /// Reads one body and gives it to `read`.
    pub(crate) fn body<T>(
        &self,
        id: RecordId,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, BenchError> {
        let mut find = self.db.prepare_cached("SELECT body FROM records WHERE id=?")?;
        let found = find.query_row([id.as_bytes().as_slice()], |row| Ok(read(row.get_ref(0)?.as_blob()?)));
        Ok(found.optional()?)
    }
}

/// A client of a bare WebSocket echo on the loopback interface.
pub(crate) struct Echo {
    socket: WebSocketStream<TcpStream>,
    server: JoinHandle<()>,
}

impl Echo {
    pub(crate) async fn start() -> Result<Self, BenchError> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(async move {
            let Ok((stream, _)) = listener.accept().await else { return };
            let _ = stream.set_nodelay(true);
            let Ok(mut socket) = accept_async(stream).await else { return };
            while let Some(Ok(message)) = socket.next().await {
                if !message.is_binary() || socket.send(message).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self { socket: connect(address).await?, server })
    }

    /// Sends a message and waits for its return: two hops.
    pub(crate) async fn round_trip(&mut self, bytes: &[u8]) -> Result<(), BenchError> {
        self.socket.send(Message::binary(bytes.to_vec())).await?;
        match self.socket.next().await {
            Some(answer) => Ok(answer.map(drop)?),
            None => {
                Err(BenchError::WebSocket(Box::new(tokio_tungstenite::tungstenite::Error::ConnectionClosed)))
            }
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn connect(address: std::net::SocketAddr) -> Result<WebSocketStream<TcpStream>, BenchError> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (socket, _) = client_async(format!("ws://{address}/"), stream).await?;
    Ok(socket)
}

/// Seals `messages` messages of `bytes` bytes one by one; answers the processor time of one.
pub(crate) fn seal_cpu(bytes: usize, messages: u32) -> Result<Duration, BenchError> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32])?);
    let mut buffer = vec![0; bytes];
    let begin = crate::usage::thread_cpu();
    for n in 0..messages {
        let mut nonce = [0; 12];
        if let Some(counter) = nonce.last_chunk_mut() {
            *counter = n.to_be_bytes();
        }
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut buffer)?;
        std::hint::black_box(tag.as_ref().len());
    }
    Ok((crate::usage::thread_cpu() - begin) / messages)
}

/// Sends `messages` messages of `bytes` bytes over a bare WebSocket, each flushed; answers the processor time of
/// one at the sender. The receiver has a thread of its own.
pub(crate) fn send_cpu(bytes: usize, messages: u32) -> Result<Duration, BenchError> {
    let (tell, address) = std::sync::mpsc::channel();
    let receiver = std::thread::spawn(move || -> Result<(), BenchError> {
        runtime()?.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let _ = tell.send(listener.local_addr()?);
            let (stream, _) = listener.accept().await?;
            let mut socket = accept_async(stream).await?;
            while let Some(Ok(message)) = socket.next().await {
                std::hint::black_box(message);
            }
            Ok(())
        })
    });
    let address = address.recv().map_err(|_| BenchError::NodeGone)?;
    let cpu = runtime()?.block_on(async move {
        let mut socket = connect(address).await?;
        let content = vec![7; bytes];
        let begin = crate::usage::thread_cpu();
        for _ in 0..messages {
            socket.send(Message::binary(content.clone())).await?;
        }
        let cpu = (crate::usage::thread_cpu() - begin) / messages;
        socket.close(None).await?;
        Ok::<_, BenchError>(cpu)
    })?;
    receiver.join().map_err(|_| BenchError::NodeGone)??;
    Ok(cpu)
}

/// A runtime on the calling thread.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// How often something was done in a second.
pub(crate) fn rate(count: u64, time: Duration) -> f64 {
    as_f64(count) / time.as_secs_f64()
}

/// How long `work` took, and what it answered.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begin = Instant::now();
    let answer = work();
    (begin.elapsed(), answer)
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
pub(crate) const fn as_f64(count: u64) -> f64 {
    count as f64
}

/// The value below which the share `share` of `values` lies. Sorts them.
pub(crate) fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
    let at = (as_f64(values.len() as u64) * share) as usize;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
