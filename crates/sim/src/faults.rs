//! What breaks: connections, the network between two nodes, nodes, clocks. And how all of it heals.

use std::sync::atomic::Ordering;

use crate::config::Switches;
use crate::network::{End, Event, Place};
use crate::world::World;
use crate::{Failure, check};

impl World {
    pub(crate) fn on_fault(&mut self) -> Result<(), Failure> {
        if self.healed {
            return Ok(());
        }
        let delay = self.rng.range(50, 2_500);
        self.schedule(delay, Event::Fault);
        match self.rng.below(100) {
            0..35 if self.config.partitions => self.break_connection(),
            35..55 if self.config.partitions => self.partition(),
            55..85 if self.config.crashes => return self.crash(),
            85..100 if self.config.skew_ms > 0 => self.turn_clock(),
            _ => {}
        }
        Ok(())
    }

    fn break_connection(&mut self) {
        let conns: Vec<u64> = self.conns.keys().copied().collect();
        if let Some(conn) = self.rng.pick(&conns).copied() {
            let silent = self.rng.chance(25);
            self.cut(conn, silent);
        }
    }

    /// Lets nothing through any more. The ends learn of it soon, or only by silence.
    pub(crate) fn cut(&mut self, conn: u64, silent: bool) {
        self.note(|| format!("connection {conn} breaks, silently: {silent}"));
        let Some(state) = self.conns.get_mut(&conn) else { return };
        state.cut = true;
        let one_only = self.rng.chance(20);
        for end in [End::Client, End::Server] {
            let delay = self.rng.below(300);
            let told = !one_only || end == End::Client;
            if told && !silent {
                self.schedule(delay, Event::Broken(Place { conn, end }));
            }
        }
    }

    fn partition(&mut self) {
        let (a, b) = (self.rng.index(self.config.nodes), self.rng.index(self.config.nodes));
        let until = self.now() + self.rng.range(200, 20_000);
        self.blocked.insert((a.min(b), a.max(b)), until);
        self.note(|| format!("nodes {a} and {b} are cut off from each other"));
        let between = |world: &Self, conn: u64| {
            world.conns.get(&conn).is_some_and(|conn| {
                let (c, s) = (conn.client.node, conn.server.node);
                (c.min(s), c.max(s)) == (a.min(b), a.max(b))
            })
        };
        let conns: Vec<u64> = self.conns.keys().copied().filter(|conn| between(self, *conn)).collect();
        for conn in conns {
            let silent = self.rng.chance(50);
            self.cut(conn, silent);
        }
    }

    fn turn_clock(&mut self) {
        let index = self.rng.index(self.config.nodes);
        let skew = self.random_skew();
        self.note(|| format!("the clock of node {index} is off by {skew} ms"));
        if let Some(node) = self.nodes.get(index) {
            node.skew_ms.store(skew, Ordering::Relaxed);
        }
    }

    fn crash(&mut self) -> Result<(), Failure> {
        let index = self.rng.index(self.config.nodes);
        if !self.is_up(index) {
            return Ok(());
        }
        let ops = self.ledger.ops.len();
        let Some(node) = self.nodes.get_mut(index) else { return Ok(()) };
        if let Some(store) = &node.store {
            self.ledger.note_conflicts(store)?;
        }
        let kept = node.crash(ops, &mut self.rng)?;
        let lossy = node.durability == blazedb_store::Durability::Normal;
        self.counts.crashes += 1;
        self.counts.lossy_crashes += u64::from(kept < ops);
        self.mark(&[4, index as u64, kept as u64]);
        self.note(|| format!("node {index} crashes, lossy: {lossy}, writes before {kept} are kept"));
        for op in self.ledger.ops.iter_mut().skip(kept).filter(|op| op.node == index) {
            op.doubtful = true;
        }
        if lossy && let Some(owed) = self.owed.get_mut(index) {
            owed.clear();
        }
        self.drop_sessions(index);
        let delay = self.rng.range(10, 8_000);
        self.schedule(delay, Event::Restart(index));
        Ok(())
    }

    fn drop_sessions(&mut self, node: usize) {
        for place in self.places_of(node) {
            let silent = self.rng.chance(40);
            self.cut(place.conn, silent);
            self.end_session_quietly(place, silent);
        }
    }

    /// The end's node is gone: nobody says goodbye.
    fn end_session_quietly(&mut self, place: Place, silent: bool) {
        let Some(conn) = self.conns.get_mut(&place.conn) else { return };
        let end = conn.end_mut(place.end);
        (end.session, end.source) = (None, None);
        let link = conn.link;
        check::leak::on_end(self, place);
        let Some(conn) = self.conns.get(&place.conn) else { return };
        if conn.end(place.other().end).session.is_none() {
            self.remove_conn(place.conn);
        } else if !silent {
            let delay = self.rng.below(500);
            self.schedule(delay, Event::Broken(place.other()));
        }
        if place.end == End::Client
            && let Some(slot) = self.links.get_mut(link)
            && slot.conn == Some(place.conn)
        {
            slot.conn = None;
        }
    }

    pub(crate) fn on_restart(&mut self, index: usize) -> Result<(), Failure> {
        let Some(node) = self.nodes.get_mut(index) else { return Ok(()) };
        if node.store.is_some() {
            return Ok(());
        }
        node.start()?;
        self.note(|| format!("node {index} is back"));
        self.appoint(index);
        check::durability::on_restart(self, index)?;
        let links: Vec<usize> = (0..self.links.len())
            .filter(|link| self.links.get(*link).is_some_and(|link| link.plan.client == index))
            .collect();
        links.into_iter().for_each(|link| self.connect_in(link, 1_000));
        Ok(())
    }

    /// A node drops the tombstones that nobody waits for.
    pub(crate) fn on_sweep(&mut self, index: usize) -> Result<(), Failure> {
        let delay = self.rng.range(50, 1_500);
        self.schedule(delay, Event::Sweep(index));
        let Some(store) = self.nodes.get(index).and_then(|node| node.store.clone()) else { return Ok(()) };
        let dropped = store.drop_tombstones()?;
        self.counts.dropped += dropped;
        self.mark(&[6, index as u64, dropped]);
        self.note(|| format!("node {index} drops {dropped} tombstones, fence {}", store.fence()));
        Ok(())
    }

    /// Everything works again, and all clocks are right.
    pub(crate) fn heal(&mut self) -> Result<(), Failure> {
        self.healed = true;
        self.blocked.clear();
        self.note(|| "everything heals".to_owned());
        for index in 0..self.nodes.len() {
            if let Some(node) = self.nodes.get(index) {
                node.skew_ms.store(0, Ordering::Relaxed);
            }
            self.on_restart(index)?;
        }
        if self.config.switches == Switches::None { Ok(()) } else { self.switch_back() }
    }
}
