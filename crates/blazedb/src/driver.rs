//! Carries out what a [`Session`] asks for: frames to and from a connection, requests to a store.
//!
//! The same driver serves both sides and every transport.

mod answers;
mod comparing;
mod ended;
mod keyring;
mod outbox;
mod pace;
mod rebind;
mod refused;
mod requests;
mod turns;

use std::future::{Future, poll_fn};
use std::mem::take;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use blazedb_core::Filter;
use blazedb_core::bond::Bond;
use blazedb_core::feed::Seq;
use blazedb_core::limits;
use blazedb_core::session::{Closed, Input, Output, Session};
use blazedb_core::view::{View, ViewRequest};
use blazedb_core::wire::{CloseCode, Direction, Token};
use blazedb_store::{Decider, Gate, Removals, Source, Store};
use blazedb_transport::memory::MemoryEnd;
use blazedb_transport::{Connection, Fingerprint, FrameReceiver, FrameSender, LinkCounters};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant as TokioInstant, sleep_until};

use crate::database::Database;
use crate::driver::answers::{Answer, Asked, failed};
use crate::driver::comparing::Comparing;
use crate::driver::outbox::{Outbox, write_frames};
use crate::driver::rebind::Timed;
use crate::driver::requests::introduce;
pub(crate) use crate::driver::requests::introduced;
use crate::driver::turns::Waiting;
use crate::fanout::blocking;
use crate::guard::{Admit, Guard, Order, Orders, Renew};
use crate::meeting::Seat;
use crate::status::SessionReport;
use crate::tombstones::keep_dropping;
use crate::turn::Turn;
use crate::wake::{Place, advanced};

/// Which side of the session this is.
pub enum Role {
    /// The side that connected, asking for this.
    Client(ClientAsk),
    /// The side that was connected to.
    Server {
        /// Its decision about the client.
        admit: Admit,
        /// Its decisions about the client later on; without it a session is never ended by this node's will.
        guard: Option<Guard>,
    },
}

/// What the side that connected asks for.
#[derive(Clone, Debug, Default)]
pub struct ClientAsk {
    /// Which ways.
    pub direction: Direction,
    /// Compress if the other side can.
    pub compression: bool,
    /// Which records and fields, both ways.
    pub request: ViewRequest,
    /// What the server may be shown of that; `None`: all of it.
    pub granted: Option<Filter>,
    /// What becomes of records that the other side takes away.
    pub removals: Removals,
    /// Drop records here once the other side has acknowledged them.
    pub release: bool,
    /// The other side is to decide about what is written here.
    pub authority: bool,
    /// The other side was found and is not accepted yet: it hears of no keyring, and none is taken from it.
    pub stranger: bool,
    /// Who this node's user is: the value now for the hello, a later one for the open session.
    pub token: Option<watch::Receiver<Option<Token>>>,
    /// What is asked for from some time on instead, on the open session: directions, compression, records and fields.
    pub later: Option<watch::Receiver<ClientAsk>>,
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
    /// When it may send and take in, where others go first.
    pub turn: Turn,
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

struct Driver {
    session: Session,
    context: SessionContext,
    admit: Option<Admit>,
    renew: Option<Renew>,
    started: Instant,
    wake: Option<TokioInstant>,
    /// When the end of the feed was last looked at, if that was a moment ago.
    looked_at: Option<TokioInstant>,
    /// Until then nobody looks whether the feed has grown.
    paced_until: Option<TokioInstant>,
    outbox: Arc<Outbox>,
    answers: mpsc::UnboundedSender<Answer>,
    /// What the client may do; `None`: everything.
    gate: Option<Arc<Gate>>,
    /// Server: what the client is shown.
    shown: Option<Arc<View>>,
    /// Client: what it tells the server.
    told: Option<Arc<View>>,
    source: Option<Source>,
    /// What becomes of records that the other side takes away; `None` if it may not.
    removals: Option<Removals>,
    /// What is shown in this view goes once the peer has it.
    release: Option<Arc<View>>,
    /// What this side shows, if that changes with time.
    timed: Option<Timed>,
    /// How often the client asked for something else.
    asks: u64,
    /// The reader's progress as the store was last told.
    noted: Seq,
    /// Server: the last refusal that the client was told of.
    refusals_told: u64,
    /// Client: the other side decides about this replica.
    decider: Option<Decider>,
    closed: Option<Closed>,
    /// The client was let in just now: from now on it may send as much as a session allows.
    admitted: bool,
    /// How what goes out was sealed when the session began.
    generation: u64,
    /// Client: the other side is not accepted yet.
    stranger: bool,
    /// The other side may begin the keyring of a database that has none.
    begins_keyring: bool,
    /// Where it is told of changes that concern a restricted view; without it, it is told of every change.
    place: Option<Place>,
    /// What the changes that come next belong together with.
    bonds: Vec<Bond>,
    /// Where they meet what they belong together with.
    seat: Option<Seat>,
    /// What waits for a turn.
    waiting: Waiting,
    /// Server: the turn of the comparison that goes on.
    comparing: Option<Comparing>,
}

/// Runs one session over `channel` until it ends. Answers why it ended.
pub async fn run_session(context: SessionContext, role: Role, channel: Channel) -> Closed {
    let Channel { sender, mut receiver, counters, fingerprint } = channel;
    context.report.connected(counters, fingerprint);
    keep_dropping(&context.database.inner);
    let report = Arc::clone(&context.report);
    let outbox = Arc::<Outbox>::default();
    let (answers, mut incoming_answers) = mpsc::unbounded_channel();
    let mut head = context.database.watch_head();
    let mut stop = context.stop.clone();
    let mut writer = pin!(write_frames(sender, Arc::clone(&outbox)));
    let mut writing = true;
    let closed = {
        let mut session = pin!(async {
            // Both in boxes: a session lives much longer than its start, and a future holds what moves through it more
            // than once.
            match Box::pin(Driver::start(context, role, Arc::clone(&outbox), answers)).await {
                Ok((driver, mut orders)) => {
                    let wakers = (&mut head, &mut stop, &mut orders);
                    driver.run(&mut receiver, &mut incoming_answers, wakers).await
                }
                Err(closed) => closed,
            }
        });
        // One task for both, and the writer second: what the session says is on its way without another wake-up.
        poll_fn(|cx| {
            let closed = session.as_mut().poll(cx);
            let full = outbox.is_full();
            if closed.is_pending()
                && writing
                && let Poll::Ready(ended) = writer.as_mut().poll(cx)
            {
                writing = false;
                // Whatever the session says from now on would not be heard.
                let reason = ended.map_or_else(|error| error.to_string(), |()| "closed".to_owned());
                return Poll::Ready(Closed::Here(CloseCode::GoingAway, format!("sending failed: {reason}")));
            }
            if full && !outbox.is_full() {
                // The session takes in again.
                cx.waker().wake_by_ref();
            }
            closed
        })
        .await
    };
    outbox.close();
    if writing {
        // It sends what is left and closes.
        let _ = tokio::time::timeout(Duration::from_secs(2), writer).await;
    }
    report.disconnected();
    closed
}

impl Driver {
    async fn start(
        context: SessionContext,
        role: Role,
        outbox: Arc<Outbox>,
        answers: mpsc::UnboundedSender<Answer>,
    ) -> Result<(Box<Self>, Orders), Closed> {
        let (mut removals, mut told, mut release, mut timed) = (None, None, None, None);
        let (mut stranger, is_client) = (false, matches!(role, Role::Client(_)));
        let (session, admit, renew, orders) = match role {
            Role::Client(mut ask) => {
                let (database, link) = (context.database.clone(), Arc::clone(&context.link));
                removals = Some(ask.removals);
                let releases = ask.release;
                stranger = ask.stranger;
                let (mut token, later) = (ask.token.take(), ask.later.take());
                let local = blocking(move || introduce(&database, &link, ask)).await;
                let (mut local, over_time) =
                    local.map_err(|error| Closed::Here(CloseCode::Internal, error.to_string()))?;
                told = Some(Arc::clone(&local.view));
                timed = over_time;
                release = releases.then(|| Arc::clone(&local.view));
                local.token = token.as_mut().and_then(|token| token.borrow_and_update().clone());
                (Session::client(local, 0), None, None, Orders::Client(token, later))
            }
            Role::Server { admit, guard: None } => (Session::server(0), Some(admit), None, Orders::Never),
            Role::Server { admit, guard: Some(Guard { renew, verdict }) } => {
                (Session::server(0), Some(admit), Some(renew), Orders::Verdicts(verdict))
            }
        };
        let generation = context.database.store().seal_generation();
        let mut driver = Box::new(Self {
            session,
            context,
            admit,
            renew,
            started: Instant::now(),
            wake: None,
            looked_at: None,
            paced_until: None,
            outbox,
            answers,
            gate: None,
            shown: None,
            told,
            source: None,
            removals,
            release,
            timed,
            asks: 0,
            noted: 0,
            refusals_told: 0,
            decider: None,
            closed: None,
            admitted: false,
            generation,
            stranger,
            begins_keyring: is_client,
            place: None,
            bonds: Vec::new(),
            seat: None,
            waiting: Waiting::default(),
            comparing: None,
        });
        driver.on_keyring();
        Ok((driver, orders))
    }

    async fn run(
        mut self: Box<Self>,
        receiver: &mut FrameReceiver,
        answers: &mut mpsc::UnboundedReceiver<Answer>,
        (head, stop, orders): (&mut watch::Receiver<Seq>, &mut watch::Receiver<bool>, &mut Orders),
    ) -> Closed {
        let opening_ends = TokioInstant::now() + Duration::from_millis(limits::HANDSHAKE_MS);
        let mut alarm = pin!(sleep_until(opening_ends));
        let mut keyring = self.context.database.watch_keyring();
        let mut freed = self.context.turn.freed();
        let (report, outbox) = (Arc::clone(&self.context.report), Arc::clone(&self.outbox));
        loop {
            self.carry_out();
            self.look_at_comparing();
            if take(&mut self.admitted) {
                receiver.admit();
            }
            if let Some(closed) = self.closed.take() {
                return closed;
            }
            let opening = !self.context.report.is_open();
            let wake = self.next_wake(opening.then_some(opening_ends));
            // Every message moves the wake-up; the alarm is moved only forward, and then again when it rings early.
            if let Some(wake) = wake
                && (wake < alarm.deadline() || alarm.is_elapsed())
            {
                alarm.as_mut().reset(wake);
            }
            tokio::select! {
                frame = receiver.recv(), if self.takes_in() => match frame {
                    Ok(Some(frame)) => self.feed(Input::Frame(frame)),
                    Ok(None) => return Closed::ByPeer(CloseCode::GoingAway, "the connection was closed".to_owned()),
                    Err(error) => return self.broken_off(&error),
                },
                () = outbox.room(), if outbox.is_full() => {}
                Some(answer) = answers.recv() => self.on_answers(answer, answers),
                seq = advanced(head, &mut self.place), if self.paced_until.is_none() => {
                    self.looked_at = Some(TokioInstant::now());
                    self.feed(Input::FeedAdvanced(seq));
                }
                Ok(()) = keyring.changed() => {
                    keyring.mark_unchanged();
                    self.on_keyring();
                }
                Ok(()) = stop.changed() => {
                    if *stop.borrow_and_update() {
                        self.feed(Input::Shutdown);
                    }
                }
                order = orders.next() => self.on_order(order),
                () = report.asked(), if !opening => self.probe(),
                () = turns::freed(&mut freed), if self.waiting.until().is_some() => self.take_turn(),
                () = alarm.as_mut(), if wake.is_some() => {
                    let now = TokioInstant::now();
                    if opening && opening_ends <= now {
                        return self.never_opened();
                    }
                    self.on_alarm(now);
                    if !opening && self.wake.is_some_and(|wake| wake <= now) {
                        self.wake = None;
                        let arriving = receiver.take_arriving();
                        self.feed(if arriving { Input::Arriving } else { Input::Tick });
                    }
                }
            }
        }
    }

    /// When there is something to do again at the latest. An opening has to be over at a time.
    fn next_wake(&self, opening_ends: Option<TokioInstant>) -> Option<TokioInstant> {
        let look = self.timed.as_ref().and_then(Timed::due);
        let wakes = [
            opening_ends.or(self.wake),
            self.paced_until,
            look,
            self.waiting.until(),
            self.comparing_until(),
        ];
        wakes.into_iter().flatten().min()
    }

    /// Whether more is taken from the connection. A client that reads nothing, or asks faster than it is answered, waits; one that
    /// goes on reading nothing is silent in the end. (A server is not kept waiting: two sides could wait for each other.)
    fn takes_in(&self) -> bool {
        self.removals.is_some() || !(self.outbox.is_full() || self.session.is_busy())
    }

    fn on_order(&mut self, order: Order) {
        match order {
            Order::Input(input) => self.feed(input),
            Order::Ask(ask) => self.ask_anew(ask),
        }
    }

    /// Asks the peer where its feed ends.
    fn probe(&mut self) {
        self.context.report.asks();
        self.feed(Input::Probe);
    }

    fn feed(&mut self, input: Input) {
        // It may have been read since the keys changed, and before this session was told.
        if matches!(input, Input::Feed(_) | Input::Unshown(_)) && self.ends_with_its_keys() {
            return;
        }
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.session.handle(now, input);
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Send(frame) => self.outbox.push(frame),
                Output::Admit(hello) => self.decide(*hello),
                Output::Token(token) => self.renew(token),
                Output::Peer(query) => self.look_up(query),
                output @ (Output::Read { .. } | Output::ReadWanted(..)) => self.read_in_turn(output),
                Output::ReadBirths(ids) => self.ask(move |store| store.births(&ids), Input::Held),
                Output::ReadUnshown(held, lens) => {
                    let work = move |store: &Store| store.unshown(&held, &lens);
                    self.ask(work, |batch| Input::Unshown(Arc::new(batch)));
                }
                Output::ViewSettled(view) => {
                    self.note(move |store, source| store.shown_only(&source.link, source.replica, &view))
                }
                Output::BuildReconcileSet(lens) => self.list_for_comparison(lens),
                Output::FeedEnd => self.feed(Input::FeedEnd(self.context.database.store().head())),
                Output::Together(bonds) => self.bonds = bonds,
                Output::Apply(incoming) => self.apply(incoming),
                Output::ReadRefusals { after } => self.read_refusals(after),
                Output::ForgetRefusals(upto) => self.forget_refusals(upto),
                Output::TakeRefusals(refusals) => self.take_refusals(refusals),
                Output::ExtendKeyring(statements) => self.extend_keyring(&statements),
                Output::KeyringAgreed(head) => {
                    if let Err(error) = self.context.database.store().keyring_agreed(&head) {
                        tracing::warn!(%error, "noting how far the keyring is agreed on failed");
                    }
                }
                Output::Opened(opened) => {
                    self.take_seat(&opened);
                    self.context.report.opened(opened);
                }
                Output::WakeAt(ms) => {
                    self.wake = Some(TokioInstant::from_std(self.started + Duration::from_millis(ms)));
                }
                Output::Closed(closed) => self.closed = Some(closed),
            }
        }
        let status = self.session.status();
        if status.pushed_all && status.pushed > self.noted {
            self.on_pushed_all(status.pushed);
        }
        self.paced_until = self.pace(&status);
        self.context.turn.note(&status);
        let lags = &self.context.database.inner.lags;
        self.context.report.progress(status, |us| lags.add(us));
    }
}
