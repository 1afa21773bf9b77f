//! Carries out what a [`Session`] asks for: frames to and from a connection, requests to a store.
//!
//! The same driver serves both sides and every transport.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use blazedb_core::feed::{Incoming, Seq};
use blazedb_core::session::{Admission, Closed, Frame, Input, Output, PeerReplica, Session, SessionStatus};
use blazedb_core::wire::{CloseCode, Direction, Hello};
use blazedb_core::{ReplicaId, limits};
use blazedb_store::Source;
use blazedb_transport::memory::MemoryEnd;
use blazedb_transport::{Connection, Fingerprint, FrameReceiver, FrameSender, LinkCounters, SendError};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant as TokioInstant, sleep_until};

use crate::applier::ApplyError;
use crate::database::Database;
use crate::fanout::blocking;
use crate::status::SessionReport;

/// Decides what a client that says hello may do.
pub type Admit =
    Box<dyn Fn(Hello) -> Pin<Box<dyn Future<Output = Result<Admission, String>> + Send>> + Send + Sync>;

/// Which side of the session this is.
pub enum Role {
    /// The side that connected, asking for this.
    Client {
        /// What it asks for.
        direction: Direction,
        /// Compress if the other side can.
        compression: bool,
    },
    /// The side that was connected to.
    Server {
        /// Its decision about the client.
        admit: Admit,
    },
}

/// What a session works on.
pub struct SessionContext {
    /// The local database.
    pub database: Database,
    /// The name under which checkpoints are kept.
    pub link: Arc<str>,
    /// Where progress is reported.
    pub report: Arc<SessionReport>,
    /// Becomes true when the node stops or the link is removed.
    pub stop: watch::Receiver<bool>,
}

/// What a session talks through: a network connection or a channel inside the process.
pub struct Channel {
    sender: FrameSender,
    receiver: FrameReceiver,
    counters: Arc<LinkCounters>,
    fingerprint: Option<Fingerprint>,
}

impl From<Connection> for Channel {
    fn from(connection: Connection) -> Self {
        let fingerprint = Some(connection.fingerprint());
        let Connection { sender, receiver, counters, .. } = connection;
        Self { sender, receiver, counters, fingerprint }
    }
}

impl From<MemoryEnd> for Channel {
    fn from(MemoryEnd { sender, receiver, counters }: MemoryEnd) -> Self {
        Self { sender, receiver, counters, fingerprint: None }
    }
}

/// Answers from the store, on their way back to the session.
enum Answer {
    Input(Box<Input>),
    Peer(PeerReplica),
    Applied,
}

struct Driver {
    session: Session,
    context: SessionContext,
    admit: Option<Admit>,
    started: Instant,
    wake: Option<TokioInstant>,
    /// When the end of the feed was last looked at, if that was a moment ago.
    looked_at: Option<TokioInstant>,
    /// Until then nobody looks whether the feed has grown.
    paced_until: Option<TokioInstant>,
    outbox: Arc<Outbox>,
    answers: mpsc::UnboundedSender<Answer>,
    source: Option<Source>,
    closed: Option<Closed>,
    admitted: bool,
}

/// Runs one session over `channel` until it ends. Answers why it ended.
pub async fn run_session(context: SessionContext, role: Role, channel: Channel) -> Closed {
    let Channel { sender, mut receiver, counters, fingerprint } = channel;
    context.report.connected(counters, fingerprint);
    let report = Arc::clone(&context.report);
    let outbox = Arc::<Outbox>::default();
    let (answers, mut incoming_answers) = mpsc::unbounded_channel();
    let mut head = context.database.watch_head();
    let mut stop = context.stop.clone();
    let mut writer = pin!(write_frames(sender, Arc::clone(&outbox)));
    let mut writing = true;
    let closed = {
        let mut session = pin!(async {
            match Driver::start(context, role, Arc::clone(&outbox), answers).await {
                Ok(driver) => driver.run(&mut receiver, &mut incoming_answers, &mut head, &mut stop).await,
                Err(closed) => closed,
            }
        });
        // One task for both, and the writer second: what the session says is on its way without another wake-up.
        poll_fn(|cx| {
            let closed = session.as_mut().poll(cx);
            if closed.is_pending()
                && writing
                && let Poll::Ready(ended) = writer.as_mut().poll(cx)
            {
                writing = false;
                // Whatever the session says from now on would not be heard.
                let reason = ended.map_or_else(|error| error.to_string(), |()| "closed".to_owned());
                return Poll::Ready(Closed::Here(CloseCode::GoingAway, format!("sending failed: {reason}")));
            }
            closed
        })
        .await
    };
    outbox.closed.store(true, Ordering::Relaxed);
    if writing {
        // It sends what is left and closes.
        let _ = tokio::time::timeout(Duration::from_secs(2), writer).await;
    }
    report.disconnected();
    closed
}

/// Frames on their way from a session to its writer. Nobody is woken: the two are polled one after the other.
#[derive(Default)]
struct Outbox {
    frames: Mutex<VecDeque<Frame>>,
    closed: AtomicBool,
}

impl Outbox {
    fn push(&self, frame: Frame) {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).push_back(frame);
    }

    fn pop(&self) -> Option<Frame> {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let frame = frames.pop_front();
        if frames.is_empty() {
            // An idle connection keeps nothing.
            *frames = VecDeque::new();
        }
        frame
    }

    /// The next frame; `None` when none will come.
    fn poll_pop(&self) -> Poll<Option<Frame>> {
        match self.pop() {
            Some(frame) => Poll::Ready(Some(frame)),
            None if self.closed.load(Ordering::Relaxed) => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

async fn write_frames(mut sender: FrameSender, outbox: Arc<Outbox>) -> Result<(), SendError> {
    while let Some(frame) = poll_fn(|_| outbox.poll_pop()).await {
        let mut next = Some(frame);
        while let Some(frame) = next {
            sender.send(&frame.parts()).await?;
            next = outbox.pop();
        }
        sender.flush().await?;
    }
    sender.close().await
}

impl Driver {
    async fn start(
        context: SessionContext,
        role: Role,
        outbox: Arc<Outbox>,
        answers: mpsc::UnboundedSender<Answer>,
    ) -> Result<Self, Closed> {
        let (session, admit) = match role {
            Role::Client { direction, compression } => {
                let (database, link) = (context.database.clone(), Arc::clone(&context.link));
                let local = blocking(move || introduce(&database, &link, direction, compression)).await;
                let local = local.map_err(|error| Closed::Here(CloseCode::Internal, error.to_string()))?;
                (Session::client(local, 0), None)
            }
            Role::Server { admit } => (Session::server(0), Some(admit)),
        };
        let is_client = admit.is_none();
        Ok(Self {
            session,
            context,
            admit,
            started: Instant::now(),
            wake: None,
            looked_at: None,
            paced_until: None,
            outbox,
            answers,
            source: None,
            closed: None,
            admitted: is_client,
        })
    }

    async fn run(
        mut self,
        receiver: &mut FrameReceiver,
        answers: &mut mpsc::UnboundedReceiver<Answer>,
        head: &mut watch::Receiver<Seq>,
        stop: &mut watch::Receiver<bool>,
    ) -> Closed {
        let opening_ends = TokioInstant::now() + Duration::from_millis(limits::HANDSHAKE_MS);
        let mut alarm = pin!(sleep_until(opening_ends));
        loop {
            self.carry_out();
            if self.admitted && self.admit.is_some() {
                self.admit = None;
                receiver.admit();
            }
            if let Some(closed) = self.closed.take() {
                return closed;
            }
            let opening = !self.context.report.is_open();
            let wake = if opening { Some(opening_ends) } else { self.wake };
            let wake = [wake, self.paced_until].into_iter().flatten().min();
            // Every message moves the wake-up; the alarm is moved only forward, and then again when it rings early.
            if let Some(wake) = wake
                && (wake < alarm.deadline() || alarm.is_elapsed())
            {
                alarm.as_mut().reset(wake);
            }
            tokio::select! {
                frame = receiver.recv() => match frame {
                    Ok(Some(frame)) => self.feed(Input::Frame(frame)),
                    Ok(None) => return Closed::ByPeer(CloseCode::GoingAway, "the connection was closed".to_owned()),
                    Err(error) => return Closed::ByPeer(CloseCode::GoingAway, error.to_string()),
                },
                Some(answer) = answers.recv() => self.on_answers(answer, answers),
                Ok(()) = head.changed(), if self.paced_until.is_none() => {
                    self.looked_at = Some(TokioInstant::now());
                    let seq = *head.borrow_and_update();
                    self.feed(Input::FeedAdvanced(seq));
                }
                Ok(()) = stop.changed() => {
                    if *stop.borrow_and_update() {
                        self.feed(Input::Shutdown);
                    }
                }
                () = alarm.as_mut(), if wake.is_some() => {
                    let now = TokioInstant::now();
                    if opening && opening_ends <= now {
                        return Closed::Silent;
                    }
                    if self.paced_until.is_some_and(|until| until <= now) {
                        self.looked_at = None;
                    }
                    if !opening && self.wake.is_some_and(|wake| wake <= now) {
                        self.wake = None;
                        self.feed(Input::Tick);
                    }
                }
            }
        }
    }

    fn feed(&mut self, input: Input) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.session.handle(now, input);
    }

    /// Hands over every answer that is there; acknowledgements of a group become one.
    fn on_answers(&mut self, first: Answer, answers: &mut mpsc::UnboundedReceiver<Answer>) {
        let mut applied = 0;
        let mut next = Some(first);
        while let Some(answer) = next {
            match answer {
                Answer::Applied => applied += 1,
                Answer::Input(input) => self.feed(*input),
                Answer::Peer(peer) => {
                    if let Some(source) = &mut self.source {
                        source.peer_no = peer.peer_no;
                    }
                    self.context.report.knows_peer(peer.peer_no);
                    self.feed(Input::Peer(peer));
                }
            }
            next = answers.try_recv().ok();
        }
        if applied > 0 {
            self.feed(Input::Applied(applied));
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Send(frame) => self.outbox.push(frame),
                Output::Admit(hello) => self.decide(hello),
                Output::Peer(replica) => self.look_up(replica),
                Output::Read { after, max_bytes } => self.read(after, max_bytes),
                Output::ReadWanted(ids) => {
                    let store = self.context.database.store().clone();
                    let read = blocking(move || store.records_in_full(&ids));
                    self.answer(read, |batch| Input::Feed(Arc::new(batch)));
                }
                Output::BuildReconcileSet => {
                    let store = self.context.database.store().clone();
                    let list = blocking(move || store.reconcile_set());
                    self.answer(list, |set| Input::ReconcileSet(Box::new(set)));
                }
                Output::Apply(incoming) => self.apply(incoming),
                Output::Opened(opened) => self.context.report.opened(opened),
                Output::WakeAt(ms) => {
                    self.wake = Some(TokioInstant::from_std(self.started + Duration::from_millis(ms)));
                }
                Output::Closed(closed) => self.closed = Some(closed),
            }
        }
        let status = self.session.status();
        self.paced_until = self.pace(&status);
        self.context.report.progress(status);
    }

    fn read(&mut self, after: Seq, max_bytes: usize) {
        let database = self.context.database.clone();
        match database.inner.feeds.at_hand(after, max_bytes) {
            Some(Ok(batch)) => self.feed(Input::Feed(batch)),
            Some(Err(error)) => drop(self.answers.send(failed(&ApplyError::from(&error)))),
            None => {
                self.answer(async move { database.inner.feeds.get(after, max_bytes).await }, |batch| {
                    Input::Feed(batch)
                });
            }
        }
    }

    /// When to look at the feed again. What a burst of commits writes is sent together: while the peer has not
    /// acknowledged what came before, or a moment after it if more has come meanwhile (J. Nagle, RFC 896, with a
    /// limit). A lone commit is sent at once, and so is everything once much is under way.
    fn pace(&self, status: &SessionStatus) -> Option<TokioInstant> {
        let looked_at = self.looked_at?;
        let pause = match status.in_flight_bytes {
            0 if self.context.database.store().head() <= status.head => return None,
            0 => limits::FEED_BURST_MS,
            1..=limits::PACED_BYTES => limits::FEED_PACE_MS,
            _ => return None,
        };
        Some(looked_at + Duration::from_millis(pause))
    }

    fn decide(&mut self, hello: Hello) {
        self.admitted = true;
        let Some(admit) = &self.admit else { return };
        let (decision, answers) = (admit(hello), self.answers.clone());
        tokio::spawn(async move {
            let _ = answers.send(Answer::Input(Box::new(Input::Admitted(decision.await))));
        });
    }

    fn look_up(&mut self, replica: ReplicaId) {
        let (store, link) = (self.context.database.store().clone(), Arc::clone(&self.context.link));
        self.source = Some(Source::new(Arc::clone(&link), replica, 0));
        let answers = self.answers.clone();
        tokio::spawn(async move {
            let found = blocking(move || store.peer(&link, replica)).await;
            let answer = match found {
                Ok((peer_no, checkpoint)) => Answer::Peer(PeerReplica { peer_no, checkpoint }),
                Err(error) => failed(&ApplyError::from(&error)),
            };
            let _ = answers.send(answer);
        });
    }

    fn apply(&mut self, incoming: Incoming) {
        let Some(source) = self.source.clone() else { return };
        match self.context.database.store().check(source, incoming) {
            Ok(batch) => {
                let answers = self.answers.clone();
                let report = move |result: Result<(), ApplyError>| {
                    let answer = match result {
                        Ok(()) => Answer::Applied,
                        Err(error) => failed(&error),
                    };
                    let _ = answers.send(answer);
                };
                self.context.database.inner.applier.submit(batch, Box::new(report));
            }
            Err(error) => drop(self.answers.send(failed(&ApplyError::from(&error)))),
        }
    }

    /// Sends what a piece of work answers back to the session.
    fn answer<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, blazedb_store::StoreError>> + Send + 'static,
        input: impl FnOnce(T) -> Input + Send + 'static,
    ) {
        let answers = self.answers.clone();
        tokio::spawn(async move {
            let answer = match work.await {
                Ok(value) => Answer::Input(Box::new(input(value))),
                Err(error) => failed(&ApplyError::from(&error)),
            };
            let _ = answers.send(answer);
        });
    }
}

fn failed(error: &ApplyError) -> Answer {
    Answer::Input(Box::new(Input::ApplyFailed(error.code, error.message.clone())))
}

fn introduce(
    database: &Database,
    link: &str,
    direction: Direction,
    compression: bool,
) -> Result<blazedb_core::session::LocalReplica, blazedb_store::StoreError> {
    let store = database.store();
    Ok(blazedb_core::session::LocalReplica {
        replica: store.replica(),
        head: store.head(),
        empty: store.is_empty()?,
        direction,
        compression,
        checkpoint: store.link_checkpoint(link)?,
        now_ms: store.now_ms(),
    })
}
