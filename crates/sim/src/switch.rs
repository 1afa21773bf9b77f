//! Links that ask for another mode or view while their sessions are open.

use blazedb_core::session::Input;
use blazedb_core::view::ViewRequest;
use blazedb_core::wire::Direction;

use crate::Failure;
use crate::config::Switches;
use crate::driver::public_request;
use crate::keys::KEEPER;
use crate::network::{End, Place};
use crate::requests::introduce;
use crate::world::World;

const BOTH: Direction = Direction { push: true, pull: true };

impl World {
    /// Some link's client asks for something else from now on.
    pub(crate) fn switch_one(&mut self) -> Result<(), Failure> {
        let link = self.rng.index(self.links.len());
        let one_way = [BOTH, Direction { push: true, pull: false }, Direction { push: false, pull: true }];
        let direction = match self.config.switches {
            Switches::Modes | Switches::Both => self.rng.pick(&one_way).copied().unwrap_or(BOTH),
            _ => BOTH,
        };
        self.switch(link, direction)
    }

    /// Every link goes both ways from now on.
    pub(crate) fn switch_back(&mut self) -> Result<(), Failure> {
        (0..self.links.len()).try_for_each(|link| self.switch(link, BOTH))
    }

    fn switch(&mut self, link: usize, direction: Direction) -> Result<(), Failure> {
        if self.is_keepers(link) {
            return Ok(());
        }
        let request = match self.config.switches {
            Switches::Views | Switches::Both => self.draw_request(link),
            _ => self.links.get(link).map(|link| link.request.clone()).unwrap_or_default(),
        };
        self.change_link(link, direction, request)
    }

    /// A link's client asks for this from now on, on the open session if there is one.
    pub(crate) fn change_link(
        &mut self,
        link: usize,
        direction: Direction,
        request: ViewRequest,
    ) -> Result<(), Failure> {
        self.note(|| format!("link {link} switches to {direction:?}, {request:?}"));
        let Some(slot) = self.links.get_mut(link) else { return Ok(()) };
        slot.plan.direction = direction;
        slot.request = request.clone();
        let (name, client, conn, authority) =
            (slot.name.clone(), slot.plan.client, slot.conn, slot.authority);
        let store = self.nodes.get(client).and_then(|node| node.store.clone());
        let open = conn.and_then(|conn| self.conns.get(&conn)).filter(|conn| !conn.keyless);
        let server = open.map(|conn| conn.server.node);
        let (Some(conn), Some(server), Some(store)) = (conn, server, store) else { return Ok(()) };
        let compression = !self.config.sealed && self.rng.chance(70);
        let request = public_request(&store, request)?;
        let asks = (direction, authority);
        let local = introduce(&store, &format!("{name}/{server}"), asks, compression, request)?;
        let place = Place { conn, end: End::Client };
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.client.told = Some(std::sync::Arc::clone(&local.view));
        }
        self.feed(place, Input::Reconfigure(Box::new(local)))
    }

    /// Of a sealed run, where the hub can show nothing, one device sees everything.
    fn is_keepers(&self, link: usize) -> bool {
        self.config.sealed && self.links.get(link).is_some_and(|link| link.plan.client == KEEPER)
    }

    /// What a link's client asks to see from now on: in a run with views, something else now and then.
    pub(crate) fn draw_request(&mut self, link: usize) -> ViewRequest {
        // By what is sealed nobody can filter.
        let last = if self.config.sealed { "team != \"c\"" } else { "team != \"c\" && has(f0)" };
        let filters = [None, Some("team == \"a\""), Some("team in [\"a\", \"b\"]"), Some(last)];
        let draws = self.config.views
            && !self.is_keepers(link)
            && !self.config.fixed_views
            && self.config.switches != Switches::Modes;
        if draws && !self.healed && self.rng.chance(40) {
            let filter = self.rng.pick(&filters).copied().flatten().map(str::to_owned);
            let excluded = if self.rng.chance(30) { vec!["f3".to_owned()] } else { Vec::new() };
            self.note(|| format!("link {link} asks for {filter:?} without {excluded:?}"));
            if let Some(slot) = self.links.get_mut(link) {
                slot.request = ViewRequest { filter, excluded };
            }
        }
        self.links.get(link).map(|link| link.request.clone()).unwrap_or_default()
    }
}
