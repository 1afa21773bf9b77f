//! A session that is only played through: what a link would carry if it were opened now.
//!
//! Both sides run the session that a link would run, over a connection of its own. What is said to find out where each
//! stands is said; changes are read, counted and dropped by the side that would send them, and count as acknowledged at
//! once. So what is counted is what the same code would send.
//!
//! Invariants: nothing is written to a database, noted of the peer or pinned; no change and no key leaves a node; a
//! rehearsal is over within [`REHEARSAL_MS`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use blazedb_core::RecordId;
use blazedb_core::blazebinary::DecodeError;
use blazedb_core::blazebinary::varint::{Reader, write_varint};
use blazedb_core::history::read_removal;
use blazedb_core::limits::{MAX_WANTED, REHEARSAL_MS};
use blazedb_core::session::{Closed, Frame, Input, Output, PeerQuery, PeerReplica, Session};
use blazedb_core::view::RemovalReason;
use blazedb_core::wire::{CloseCode, Message};
use blazedb_store::{Shown, Store, StoreError};
use blazedb_transport::{Connection, FrameReceiver, FrameSender, ReceiveError, SendError};
use tokio::time::{sleep_until, timeout};

use crate::fanout::blocking;
use crate::guard::{Admit, Admitted};

/// First byte of a frame: a message of the session follows.
const SESSION: u8 = 0;
/// The client has said all that it would say.
const DONE: u8 = 1;
/// The server's answer to that, as often as it takes: what it would take away, up to [`MAX_WANTED`] records.
const REMOVALS: u8 = 2;
/// And the end of the answer: what it would send.
const COUNTS: u8 = 3;

/// What one side would send.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    /// Changes that are no removals.
    pub(crate) changes: u64,
    /// The bytes of all, before compression.
    pub(crate) bytes: u64,
    /// Removals.
    pub(crate) removals: Vec<(RecordId, RemovalReason)>,
}

impl Counts {
    /// The frames that say it.
    fn encode(&self) -> Vec<Vec<u8>> {
        let mut frames: Vec<Vec<u8>> = Vec::new();
        for piece in self.removals.chunks(MAX_WANTED) {
            let mut frame = vec![REMOVALS];
            for (id, reason) in piece {
                frame.extend_from_slice(id.as_bytes());
                frame.push(reason.byte());
            }
            frames.push(frame);
        }
        let mut last = vec![COUNTS];
        [self.changes, self.bytes].into_iter().for_each(|count| write_varint(count, &mut last));
        frames.push(last);
        frames
    }

    fn decode_removals(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let (id, reason) = (RecordId::from_bytes(reader.read_array()?), reader.read_u8()?);
            let reason = RemovalReason::from_byte(reason).ok_or(DecodeError::UnknownTag(reason))?;
            self.removals.push((id, reason));
        }
        Ok(())
    }

    fn decode_counts(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let mut reader = Reader::new(bytes);
        (self.changes, self.bytes) = (reader.read_varint()?, reader.read_varint()?);
        reader.finish()
    }

    /// Takes note of a message of changes.
    fn add(&mut self, data: &[u8]) -> Result<(), DecodeError> {
        self.bytes += data.len() as u64;
        let mut reader = Reader::new(data);
        while !reader.is_empty() {
            let body = reader.read_varint()? >> 1;
            let history = reader.read_varint()?;
            let id = RecordId::from_bytes(reader.read_array()?);
            let length = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
            match read_removal(reader.read_bytes(length(history))?)? {
                Some(reason) => self.removals.push((id, reason)),
                None => self.changes += 1,
            }
            reader.read_bytes(length(body))?;
        }
        Ok(())
    }
}

/// A rehearsal came to no end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Interrupted {
    /// The other side refuses the session, or this one does.
    #[error("refused: {0}")]
    Closed(String),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Lost(String),
    /// What came is not what is said in a rehearsal.
    #[error("the other side said what makes no sense here")]
    Malformed,
    /// It took too long.
    #[error("no answer within {} s", REHEARSAL_MS / 1_000)]
    TooSlow,
    /// A database can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<SendError> for Interrupted {
    fn from(error: SendError) -> Self {
        Self::Lost(error.to_string())
    }
}

impl From<ReceiveError> for Interrupted {
    fn from(error: ReceiveError) -> Self {
        Self::Lost(error.to_string())
    }
}

impl From<DecodeError> for Interrupted {
    fn from(_: DecodeError) -> Self {
        Self::Malformed
    }
}

/// One side of a rehearsal.
pub(crate) struct Rehearsal {
    session: Session,
    store: Store,
    link: Arc<str>,
    admit: Option<Admit>,
    sender: FrameSender,
    receiver: FrameReceiver,
    started: Instant,
    wake: Option<Instant>,
    opened: bool,
    /// Messages of changes that were dropped.
    dropped: u64,
    counts: Counts,
}

impl Rehearsal {
    /// The side that connected.
    pub(crate) fn client(session: Session, store: Store, link: Arc<str>, connection: Connection) -> Self {
        Self::new(session, store, link, connection, None)
    }

    fn new(
        session: Session,
        store: Store,
        link: Arc<str>,
        Connection { sender, receiver, .. }: Connection,
        admit: Option<Admit>,
    ) -> Self {
        let (started, counts) = (Instant::now(), Counts::default());
        let (wake, opened, dropped) = (None, false, 0);
        Self { session, store, link, admit, sender, receiver, started, wake, opened, dropped, counts }
    }

    /// What this side would send, and what the other one would.
    pub(crate) async fn play(mut self) -> Result<(Counts, Counts), Interrupted> {
        let work = async {
            let (mut asked, mut there) = (false, Counts::default());
            loop {
                self.carry_out().await?;
                if self.is_done() && !asked {
                    asked = true;
                    self.sender.send(&[&[DONE]]).await?;
                }
                self.sender.flush().await?;
                match self.next().await? {
                    Some((REMOVALS, removals)) if asked => there.decode_removals(&removals)?,
                    Some((COUNTS, counts)) if asked => {
                        there.decode_counts(&counts)?;
                        return Ok((self.counts, there));
                    }
                    Some((SESSION, message)) => self.feed(Input::Frame(message)),
                    Some(_) => return Err(Interrupted::Malformed),
                    None => self.feed(Input::Tick),
                }
            }
        };
        timeout(Duration::from_millis(REHEARSAL_MS), work).await.unwrap_or(Err(Interrupted::TooSlow))
    }

    /// Plays the side that was connected to, until the client knows what it wants to know.
    async fn serve(mut self) -> Result<(), Interrupted> {
        let work = async {
            let mut asked = false;
            loop {
                self.carry_out().await?;
                if asked && self.is_done() {
                    for frame in self.counts.encode() {
                        self.sender.send(&[&frame]).await?;
                    }
                    return Ok(self.sender.close().await?);
                }
                self.sender.flush().await?;
                match self.next().await? {
                    Some((DONE, rest)) if rest.is_empty() => asked = true,
                    Some((SESSION, message)) => self.feed(Input::Frame(message)),
                    Some(_) => return Err(Interrupted::Malformed),
                    None => self.feed(Input::Tick),
                }
            }
        };
        timeout(Duration::from_millis(REHEARSAL_MS), work).await.unwrap_or(Err(Interrupted::TooSlow))
    }

    /// The next frame, in two parts; `None` if it is time for a tick.
    async fn next(&mut self) -> Result<Option<(u8, Vec<u8>)>, Interrupted> {
        let wake = self.wake;
        let alarm = async {
            match wake {
                Some(wake) => sleep_until(wake.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            frame = self.receiver.recv() => {
                let mut frame = frame?.ok_or_else(|| Interrupted::Lost("it was closed".to_owned()))?;
                if frame.is_empty() {
                    return Err(Interrupted::Malformed);
                }
                let rest = frame.split_off(1);
                Ok(frame.first().map(|kind| (*kind, rest)))
            }
            () = alarm => {
                self.wake = None;
                Ok(None)
            }
        }
    }

    /// Whether this side would have nothing more to send.
    fn is_done(&self) -> bool {
        self.opened && self.session.status().pushed_all
    }

    fn feed(&mut self, input: Input) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.session.handle(now, input);
    }

    /// Does what the session asks for, until it waits for the other side.
    async fn carry_out(&mut self) -> Result<(), Interrupted> {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Send(frame) => self.send(&frame).await?,
                Output::Admit(hello) => {
                    let Some(admit) = &self.admit else { return Err(Interrupted::Malformed) };
                    let decision = admit(*hello).await;
                    if decision.is_ok() {
                        self.receiver.admit();
                    }
                    self.feed(Input::Admitted(decision.map(|Admitted { admission, .. }| admission)));
                }
                Output::Peer(query) => {
                    let link = Arc::clone(&self.link);
                    let peer = self.ask(move |store| look_up(store, &link, &query)).await?;
                    self.feed(Input::Peer(peer));
                }
                Output::Read { after, max_bytes, lens } => {
                    let batch = self.ask(move |store| store.feed(after, max_bytes, &lens)).await?;
                    self.feed(Input::Feed(Arc::new(batch)));
                }
                Output::ReadWanted(ids, lens) => {
                    let batch = self.ask(move |store| store.records_in_full(&ids, &lens)).await?;
                    self.feed(Input::Feed(Arc::new(batch)));
                }
                Output::ReadBirths(ids) => {
                    let births = self.ask(move |store| store.births(&ids)).await?;
                    self.feed(Input::Held(births));
                }
                Output::ReadUnshown(held, lens) => {
                    let batch = self.ask(move |store| store.unshown(&held, &lens)).await?;
                    self.feed(Input::Unshown(Arc::new(batch)));
                }
                Output::BuildReconcileSet(lens) => {
                    let set = self.ask(move |store| store.reconcile_set(&lens)).await?;
                    self.feed(Input::ReconcileSet(Box::new(set)));
                }
                Output::Opened(_) => self.opened = true,
                Output::WakeAt(ms) => self.wake = Some(self.started + Duration::from_millis(ms)),
                Output::Closed(closed) => return Err(self.closed(closed).await),
                // What would be written, noted or asked about what is written.
                _ => {}
            }
        }
        Ok(())
    }

    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.store.clone();
        blocking(move || work(&store)).await
    }

    /// Sends what both sides have to know of each other, and counts what would follow.
    async fn send(&mut self, frame: &Frame) -> Result<(), Interrupted> {
        let [head, shared] = frame.parts();
        match Message::decode(&[head, shared].concat())? {
            Message::Changes(changes) => {
                self.counts.add(&changes.data)?;
                self.dropped += 1;
                self.feed(Input::Frame(Message::Ack(self.dropped).encode()));
            }
            Message::Hello(_)
            | Message::Welcome(_)
            | Message::Sketch { .. }
            | Message::CompareBy { .. }
            | Message::Coded(_)
            | Message::Reconcile(_)
            | Message::Want { .. }
            | Message::Held(_)
            | Message::Ping
            | Message::Pong
            | Message::Close(..) => self.sender.send(&[&[SESSION], head, shared]).await?,
            _ => {}
        }
        Ok(())
    }

    async fn closed(&mut self, closed: Closed) -> Interrupted {
        // What was said last is on its way; the reason stands without it.
        let _ = self.sender.flush().await;
        match closed {
            Closed::ByPeer(CloseCode::Protocol | CloseCode::Version, text) => Interrupted::Lost(text),
            Closed::ByPeer(_, text) | Closed::Here(_, text) => Interrupted::Closed(text),
            Closed::Silent => Interrupted::TooSlow,
        }
    }
}

/// Serves a rehearsal: a connection on which a client asks what a session would carry. `link` is the name under which the
/// database's serving sessions keep their checkpoints.
///
/// # Errors
/// [`Interrupted`]; then the client knows nothing.
pub async fn serve_rehearsal(
    store: Store,
    link: Arc<str>,
    admit: Admit,
    connection: Connection,
) -> Result<(), Interrupted> {
    Rehearsal::new(Session::server(0), store, link, connection, Some(admit)).serve().await
}

/// What the store knows of a peer, as [`crate::driver`] looks it up, without noting anything.
fn look_up(store: &Store, link: &str, query: &PeerQuery) -> Result<PeerReplica, StoreError> {
    let met = match query.says {
        Some(place) => store.may_stand_at(link, query.replica, place)?,
        None => true,
    };
    let (peer_no, checkpoint) = store.peer_as_known(link, query.replica)?;
    let (resumes, compares) = (query.resumes && met, query.compares);
    let show = |view: &Arc<_>| store.would_show(link, query.replica, view, resumes, compares);
    let Shown { held, unsettled } = query.view.as_ref().map_or(Ok(Shown::default()), show)?;
    Ok(PeerReplica { peer_no, checkpoint, held, unsettled: unsettled || !met, refusals: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_survive_the_wire_and_nothing_else_does() {
        let removal = |no: u8| (RecordId::from_bytes([no; 16]), RemovalReason::LeftFilter);
        let removals = (0..=MAX_WANTED).map(|no| removal(no as u8)).collect();
        let counts = Counts { changes: 700, bytes: 1 << 40, removals };
        let frames = counts.encode();
        assert_eq!(frames.iter().map(|frame| frame[0]).collect::<Vec<_>>(), [REMOVALS, REMOVALS, COUNTS]);
        let mut read = Counts::default();
        for frame in &frames[..2] {
            read.decode_removals(&frame[1..]).unwrap();
            assert!(Counts::default().decode_removals(&frame[1..frame.len() - 1]).is_err());
        }
        let last = &frames[2][1..];
        read.decode_counts(last).unwrap();
        assert_eq!(read, counts);
        assert!(read.decode_counts(&last[..last.len() - 1]).is_err());
        assert!(read.decode_counts(&[last, &[0]].concat()).is_err());
    }

    #[test]
    fn removals_are_told_from_changes() {
        let entry = |lead: u8, history: &[u8], body: &[u8]| {
            [&[lead, history.len() as u8][..], &[7; 16], history, body].concat()
        };
        let removal = blazedb_core::history::removal(RemovalReason::LeftFilter);
        let data = [entry(5, &[0, 1, 2], b"ab"), entry(1, &removal, b"")].concat();
        let mut counts = Counts::default();
        counts.add(&data).unwrap();
        let removed = vec![(RecordId::from_bytes([7; 16]), RemovalReason::LeftFilter)];
        assert_eq!(counts, Counts { changes: 1, bytes: data.len() as u64, removals: removed });
        assert!(Counts::default().add(&data[..data.len() - 1]).is_err());
    }
}
