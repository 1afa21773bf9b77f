//! Connections and what happens on them.
//!
//! Invariants: a connection delivers in order or breaks; what is under way when it breaks is lost; the two ends
//! may learn of the break at different times, or only by silence.

use std::sync::Arc;

use blazedb_core::blazebinary::DecodeError;
use blazedb_core::blazebinary::varint::Reader;
use blazedb_core::feed::{Seq, decompress};
use blazedb_core::limits::MAX_MESSAGE_BYTES;
use blazedb_core::session::{Admission, Input, PeerQuery, Refusal, Session};
use blazedb_core::topology::EncryptionSpec;
use blazedb_core::view::{Lens, View, ViewRequest};
use blazedb_core::wire::{Direction, Hello, Message};
use blazedb_core::{RecordId, Stamp};
use blazedb_store::{Gate, Source};

use crate::config::LinkPlan;

/// One end of one connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Place {
    pub(crate) conn: u64,
    pub(crate) end: End,
}

/// Which end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum End {
    Client,
    Server,
}

impl Place {
    pub(crate) const fn other(self) -> Self {
        let end = match self.end {
            End::Client => End::Server,
            End::Server => End::Client,
        };
        Self { conn: self.conn, end }
    }
}

/// One end of a connection, as its node sees it.
pub(crate) struct EndState {
    pub(crate) node: usize,
    pub(crate) session: Option<Session>,
    pub(crate) source: Option<Source>,
    pub(crate) wake: Option<u64>,
    /// Which ways, once it is open.
    pub(crate) opened: Option<Direction>,
    /// It began with a reconciliation.
    pub(crate) reconciled: bool,
    /// What the peer has acknowledged and was checked for.
    pub(crate) acked: Seq,
    /// What the store was told of the reader's progress.
    pub(crate) passed: Seq,
    /// When the last frame towards this end arrives.
    pub(crate) last_arrival: u64,
    /// (Server) what the client may do; `None`: everything.
    pub(crate) gate: Option<Arc<Gate>>,
    /// (Server) what the client is shown.
    pub(crate) shown: Option<Arc<View>>,
    /// (Client) what it tells the server.
    pub(crate) told: Option<Arc<View>>,
    /// (Client) what it has asked the server for last,
    pub(crate) asked: Option<Arc<View>>,
    /// and under which view it sends.
    pub(crate) terms: Option<Arc<View>>,
    /// How what goes out was sealed when the session began.
    pub(crate) generation: u64,
    /// (Server) the last refusal that the client was told of.
    pub(crate) refusals_told: u64,
}

impl EndState {
    pub(crate) const fn new(node: usize) -> Self {
        Self {
            node,
            session: None,
            source: None,
            wake: None,
            opened: None,
            reconciled: false,
            acked: 0,
            passed: 0,
            last_arrival: 0,
            gate: None,
            shown: None,
            told: None,
            asked: None,
            terms: None,
            generation: 0,
            refusals_told: 0,
        }
    }
}

/// A connection.
pub(crate) struct Conn {
    pub(crate) link: usize,
    pub(crate) client: EndState,
    pub(crate) server: EndState,
    pub(crate) latency: u64,
    /// Nothing gets through any more.
    pub(crate) cut: bool,
    /// It is only there for the keyring.
    pub(crate) keyless: bool,
}

impl Conn {
    pub(crate) const fn end(&self, end: End) -> &EndState {
        match end {
            End::Client => &self.client,
            End::Server => &self.server,
        }
    }

    pub(crate) const fn end_mut(&mut self, end: End) -> &mut EndState {
        match end {
            End::Client => &mut self.client,
            End::Server => &mut self.server,
        }
    }
}

/// A link and its present connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) plan: LinkPlan,
    pub(crate) name: String,
    /// Whom the client turns to when the server can't be reached, in this order.
    pub(crate) fallbacks: Vec<usize>,
    /// What the client asks to see.
    pub(crate) request: ViewRequest,
    /// What is sealed on it.
    pub(crate) encryption: EncryptionSpec,
    /// The server decides about what the client writes.
    pub(crate) authority: bool,
    /// It is not wanted any more.
    pub(crate) removed: bool,
    pub(crate) conn: Option<u64>,
    /// A try to connect is scheduled.
    pub(crate) due: bool,
}

/// What a node decides about a client.
pub(crate) type Decision = Result<(Admission, Option<Arc<Gate>>), Refusal>;

/// A request of a session to its node.
pub(crate) enum Request {
    Admit(Box<Hello>),
    Peer(PeerQuery),
    Read { after: Seq, max_bytes: usize, lens: Arc<Lens> },
    Wanted(Vec<RecordId>, Arc<Lens>),
    Births(Vec<RecordId>),
    Unshown(Vec<(RecordId, Stamp)>, Arc<Lens>),
    Settled(Arc<View>),
    Passed(Seq),
    List(Arc<Lens>),
    Refusals(u64),
}

/// Something that happens at a time.
pub(crate) enum Event {
    /// A frame arrives.
    Frame(Place, Vec<u8>),
    /// A node does what its session asked for.
    Request(Place, Request),
    /// The answer gets to the session.
    Answer(Place, Input),
    /// The node has decided about its client.
    Decided(Place, Box<Decision>),
    /// A session learns of the end of the feed.
    Head(Place),
    /// A session's timer.
    Wake(Place, u64),
    /// A session that is not open by now is given up.
    Opening(Place),
    /// An end learns that its connection is gone.
    Broken(Place),
    /// A link tries to connect.
    Connect(usize),
    /// A node's applier works.
    Flush(usize),
    /// An application writes.
    Work,
    /// Something breaks.
    Fault,
    /// A session learns that the keyring is another one.
    Keyring(Place),
    /// A session that is only there for the keyring: whether that has come.
    KeysCheck(Place),
    /// A node starts again.
    Restart(usize),
    /// A node drops tombstones.
    Sweep(usize),
}

/// A frame in one line.
pub(crate) fn summary(bytes: &[u8]) -> String {
    match Message::decode(bytes) {
        Ok(Message::Changes(changes)) => {
            let (upto, head, has) = (changes.upto, changes.head, changes.has);
            let data = match changes.compressed {
                true => decompress(&changes.data, MAX_MESSAGE_BYTES).unwrap_or_default(),
                false => changes.data,
            };
            let entries = entries(&data).unwrap_or_default().join(" ");
            format!("Changes {{ upto {upto:?}, head {head}, has {has}, {} bytes }}: {entries}", data.len())
        }
        Ok(Message::Reconcile(bytes)) => format!("Reconcile {} bytes", bytes.len()),
        Ok(Message::Sketch { .. }) => "Sketch".to_owned(),
        Ok(Message::Names(_)) => "Names".to_owned(),
        Ok(other) => format!("{other:?}"),
        Err(error) => format!("{error:?}"),
    }
}

/// The records in a batch, by the ends of their ids; `-` for one that is taken away.
fn entries(data: &[u8]) -> Result<Vec<String>, DecodeError> {
    let mut reader = Reader::new(data);
    let mut entries = Vec::new();
    while !reader.is_empty() {
        let body = usize::try_from(reader.read_varint()? >> 1).unwrap_or(usize::MAX);
        let history = usize::try_from(reader.read_varint()?).unwrap_or(usize::MAX);
        let id = RecordId::from_bytes(reader.read_array()?).to_string();
        let gone = blazedb_core::history::read_removal(reader.read_bytes(history)?)?.is_some();
        reader.read_bytes(body)?;
        entries.push(format!("{}{}", if gone { "-" } else { "" }, id.get(24..).unwrap_or_default()));
    }
    Ok(entries)
}
