//! Tokens between real processes: issued, presented, expired, replaced, revoked; invitations; pinned keys.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use crate::common::{Place, Running};
    use serde_json::Value as Json;

    const HUB: &str = "listen = '127.0.0.1:0'\n[auth]\nissuers = [{ name = 'self', key_file = 'data/issuer.pub' }]\n\
         [databases.bugs]\nplaintext = true\nserve = 'bidirectional'\n[databases.bugs.access]\npublic = true\n";

    fn hub(dir: &Path) -> (Place, Running, String) {
        let hub = Place::new(dir, "hub", HUB);
        let (node, ready) = hub.up();
        (hub, node, address_in(&ready))
    }

    fn address_in(ready: &str) -> String {
        crate::common::address_in(ready)
    }

    fn device(dir: &Path, name: &str, address: &str, token_file: bool) -> Place {
        let token = if token_file { "token_file = 'me.jwt'\n" } else { "" };
        let topology = format!(
            "{token}[databases.bugs]\nplaintext = true\npattern = 'hub-and-spoke'\nhub = 'ws://{address}'\n"
        );
        Place::new(dir, name, &topology)
    }

    fn put(place: &Place, token: &str) {
        std::fs::write(place.0.join("new.jwt"), token).unwrap();
        std::fs::rename(place.0.join("new.jwt"), place.0.join("me.jwt")).unwrap();
    }

    fn json(place: &Place, args: &[&str]) -> Json {
        serde_json::from_str(&place.ok(&[args, &["--json"]].concat())).unwrap()
    }

    fn link(place: &Place) -> Json {
        json(place, &["status"])["links"][0].clone()
    }

    /// Waits until the running node's link is as asked; answers it.
    fn wait(place: &Place, what: &str, is_so: impl Fn(&Json) -> bool) -> Json {
        let gives_up = Instant::now() + Duration::from_secs(20);
        loop {
            let now = link(place);
            if is_so(&now) {
                return now;
            }
            assert!(Instant::now() < gives_up, "{what}: {now}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn is_idle(link: &Json) -> bool {
        link["state"] == "idle"
    }

    fn refused_because(words: &str) -> impl Fn(&Json) -> bool {
        move |link| {
            let message = link["error"]["message"].as_str().unwrap_or_default();
            link["state"] == "refused" && message.contains("refused: ") && message.contains(words)
        }
    }

    #[test]
    fn a_token_lets_in_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, _node, address) = hub(dir.path());
        let one = device(dir.path(), "one", &address, true);
        let sync = &["sync", "--timeout", "20", "-q"];
        let (code, message) = one.fails(sync, 4);
        assert!(code == "unauthenticated" && message.contains("me.jwt: there is no such file"), "{message}");
        let bare = device(dir.path(), "bare", &address, false);
        let (code, message) = bare.fails(sync, 4);
        assert!(
            code == "unauthenticated"
                && message.contains("refused: ")
                && message.contains("a token is needed"),
            "{message}"
        );

        let mut seen = hub.start(&["watch", "bugs"]);
        let id = one.ok(&["insert", "bugs", "{}"]);
        let issue = [
            "token", "issue", "--user", "anna", "--team", "ios", "web", "--role", "a,b", "--claim", "level=3",
        ];
        put(&one, &hub.ok(&issue));
        one.ok(sync);
        assert!(seen.line().contains(&id));
        let shown = one.ok(&["token", "show"]);
        assert!(shown.contains("\"sub\": \"anna\"") && shown.contains("\"level\": 3"), "{shown}");
        let claims = json(&one, &["token", "show"])["claims"].clone();
        assert_eq!(claims["roles"], serde_json::json!(["a", "b"]));
        assert!(shown.contains("good until: ") && shown.contains("bound to: no node"), "{shown}");

        // Another issuer's token, a bound one of another node, one that is over, and no token at all.
        let other = Place::new(dir.path(), "other", "");
        put(&one, &other.ok(&["token", "issue", "--user", "anna"]));
        assert!(one.fails(sync, 4).1.contains("signature"));
        let key = json(&bare, &["token", "invite", "--user", "x", "--url", "ws://127.0.0.1:1"]);
        assert!(key["code"].as_str().unwrap().starts_with("blzinv1-"));
        let fingerprint = fingerprint_of(&bare);
        put(&one, &hub.ok(&["token", "issue", "--user", "anna", "--node", &fingerprint]));
        assert!(one.fails(sync, 4).1.contains("bound to the key of another node"));
        put(&bare, &hub.ok(&["token", "issue", "--user", "anna", "--node", &fingerprint]));
        std::fs::rename(bare.0.join("me.jwt"), bare.0.join("data/token.jwt")).unwrap();
        bare.ok(sync);
        assert!(bare.ok(&["token", "show"]).contains("bound to: this node"));
        put(&one, &hub.ok(&["token", "issue", "--user", "anna", "--ttl", "1s"]));
        std::thread::sleep(Duration::from_millis(2_100));
        assert!(one.fails(sync, 4).1.contains("expired at"));
        assert!(one.ok(&["token", "show", "me.jwt"]).contains("expired: "));
        put(&one, "no token");
        assert!(one.fails(sync, 4).1.contains("no token"));
    }

    fn fingerprint_of(place: &Place) -> String {
        let text = std::fs::read_to_string(place.0.join("data/identity.key")).unwrap();
        text.lines().find_map(|line| line.strip_prefix("fingerprint ")).unwrap().to_owned()
    }

    #[test]
    fn an_expired_token_ends_the_session_and_a_replaced_one_heals_it() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, _node, address) = hub(dir.path());
        let one = device(dir.path(), "one", &address, true);
        let issue = |ttl: &str| hub.ok(&["token", "issue", "--user", "anna", "--ttl", ttl]);
        put(&one, &issue("4s"));
        let (_running, _) = one.up();
        wait(&one, "open", is_idle);
        let link = wait(&one, "over", refused_because("the token expired at 20"));
        assert_eq!(link["error"]["stranger"], true);
        put(&one, &issue("5s"));
        let healed = wait(&one, "healed", is_idle);
        // A fresh token in time: the same session goes on past the end of the old one.
        put(&one, &issue("1h"));
        std::thread::sleep(Duration::from_secs(7));
        let later = self::link(&one);
        assert!(is_idle(&later) && later["sessions"] == healed["sessions"], "{healed} {later}");
        // Another team: other rights, so the session is opened anew.
        put(&one, &hub.ok(&["token", "issue", "--user", "anna", "--team", "ios"]));
        wait(&one, "another", |link| {
            is_idle(link) && link["sessions"].as_u64() > healed["sessions"].as_u64()
        });
    }

    #[test]
    fn what_is_revoked_goes_within_seconds() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, _node, address) = hub(dir.path());
        let one = device(dir.path(), "one", &address, true);
        let issued = json(&hub, &["token", "issue", "--user", "anna"]);
        put(&one, issued["token"].as_str().unwrap());
        let (_running, _) = one.up();
        wait(&one, "open", is_idle);
        let started = Instant::now();
        hub.ok(&["token", "revoke", issued["id"].as_str().unwrap()]);
        wait(&one, "revoked", refused_because("the token is revoked"));
        assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
        put(&one, &hub.ok(&["token", "issue", "--user", "anna"]));
        wait(&one, "again", is_idle);
        hub.ok(&["token", "revoke", "--user", "anna"]);
        wait(&one, "user", refused_because("user is revoked"));
        put(&one, &hub.ok(&["token", "issue", "--user", "bert"]));
        wait(&one, "bert", is_idle);
        hub.ok(&["token", "revoke", "--node", &fingerprint_of(&one)]);
        wait(&one, "node", refused_because("key is revoked"));
    }

    #[test]
    fn an_invitation_gives_a_token_of_ones_own_once() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, _node, address) = hub(dir.path());
        let url = format!("ws://{address}");
        assert_eq!(hub.fails(&["token", "invite", "--user", "anna"], 2).0, "usage");
        let invite =
            |more: &[&str]| hub.ok(&[&["token", "invite", "--user", "anna", "--url", &url], more].concat());
        let code = invite(&["--team", "ios"]);
        let [one, two] = ["one", "two"].map(|name| device(dir.path(), name, &address, true));
        one.ok(&["token", "accept", &code]);
        one.ok(&["sync", "--timeout", "20"]);
        let shown = json(&one, &["token", "show"]);
        assert_eq!(
            (&shown["bound_to_this_node"], &shown["claims"]["teams"][0]),
            (&true.into(), &"ios".into())
        );
        assert_eq!(two.fails(&["token", "accept", &code], 4).0, "unauthenticated");
        let late = invite(&["--valid", "1s"]);
        std::thread::sleep(Duration::from_millis(2_100));
        assert!(two.fails(&["token", "accept", &late], 4).1.contains("has been used, or its time is over"));
        assert_eq!(two.fails(&["token", "accept", "blzinv1-x"], 2).0, "usage");
        // A stolen token is worth nothing on another device.
        std::fs::copy(one.0.join("me.jwt"), two.0.join("me.jwt")).unwrap();
        assert!(two.fails(&["sync", "--timeout", "20", "-q"], 4).1.contains("another node"));
    }

    #[test]
    fn the_first_topology_file_of_a_hub_knows_its_own_issuer() {
        let dir = tempfile::tempdir().unwrap();
        let hub = Place::new(dir.path(), "hub", "");
        std::fs::remove_file(hub.0.join("blazedb.toml")).unwrap();
        hub.ok(&["init", "--hub"]);
        let file = hub.0.join("blazedb.toml");
        let text = std::fs::read_to_string(&file).unwrap().replace("anonymous = true ", "anonymous = false ");
        let text = text.replace(":7500", ":0").replace(":7400", ":0");
        let text =
            text.replace("password_env = \"BLAZEDB_PASSWORD\"", "plaintext = true").replace("notes", "bugs");
        std::fs::write(&file, text).unwrap();
        let token = hub.run(&["token", "issue", "--user", "anna"]);
        assert!(token.code == 0 && token.err.is_empty(), "{}", token.err);
        let (_node, ready) = hub.up();
        let one = device(dir.path(), "one", &address_in(&ready), true);
        put(&one, &token.out);
        one.ok(&["sync", "--timeout", "20"]);
    }

    #[test]
    fn another_key_than_the_pinned_one_is_refused_until_it_is_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let anonymous = HUB.replace("[auth]", "[auth]\nanonymous = true");
        let hub = Place::new(dir.path(), "hub", &anonymous);
        let (node, ready) = hub.up();
        let address = address_in(&ready);
        let one = device(dir.path(), "one", &address, false);
        let sync = &["sync", "--timeout", "20", "-q"];
        one.ok(sync);
        let before = fingerprint_of(&hub);
        node.stop();
        std::fs::remove_file(hub.0.join("data/identity.key")).unwrap();
        let file = hub.0.join("blazedb.toml");
        let fixed = std::fs::read_to_string(&file).unwrap().replace("127.0.0.1:0", &address);
        std::fs::write(&file, fixed).unwrap();
        let (_node, _) = hub.up();
        let after = fingerprint_of(&hub);
        let (code, message) = one.fails(sync, 4);
        assert!(
            code == "unauthenticated" && message.contains(&before) && message.contains(&after),
            "{message}"
        );
        // A running node sees the new pin as well.
        let (_running, _) = one.up();
        wait(&one, "changed", |link| link["state"] == "refused" && link["error"]["stranger"] == true);
        one.ok(&["trust", &format!("ws://{address}"), &after]);
        wait(&one, "trusted", is_idle);

        let pinned = device(dir.path(), "pinned", &address, false);
        let file = pinned.0.join("blazedb.toml");
        let topology = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{topology}remote_key = '{before}'\n")).unwrap();
        let (code, message) = pinned.fails(sync, 4);
        assert!(
            code == "unauthenticated" && message.contains(&before) && message.contains(&after),
            "{message}"
        );
        std::fs::write(&file, format!("{topology}remote_key = '{after}'\n")).unwrap();
        pinned.ok(sync);
    }

    #[test]
    fn records_of_a_team_go_with_the_right_to_read_them_and_nothing_else_does() {
        const RULES: &str = "listen = '127.0.0.1:0'\n[auth]\nissuers = [{ name = 'self', key_file = 'data/issuer.pub' }]\n\
             [databases.bugs]\nplaintext = true\nserve = 'bidirectional'\n[databases.bugs.access]\nconnect = 'true'\n\
             read = 'record.teamId in user.teams'\ninsert = 'record.teamId in user.teams'\n\
             update = 'record.teamId in user.teams && old.teamId in user.teams'\n";
        let dir = tempfile::tempdir().unwrap();
        let hub = Place::new(dir.path(), "hub", RULES);
        let (_node, ready) = hub.up();
        let insert =
            |place: &Place, team: &str| place.ok(&["insert", "bugs", &format!(r#"{{"teamId":"{team}"}}"#)]);
        let [ios, web, ops] = ["ios", "web", "ops"].map(|team| insert(&hub, team));
        let issue =
            |teams: &[&str]| hub.ok(&[&["token", "issue", "--user", "anna", "--team"], teams].concat());
        let one = device(dir.path(), "one", &address_in(&ready), true);
        put(&one, &issue(&["ios", "web"]));
        let (running, _) = one.up();
        wait(&one, "open", is_idle);
        let has = |place: &Place, ids: &[&String], gone: &[&String]| {
            let gives_up = Instant::now() + Duration::from_secs(20);
            loop {
                let now = place.ok(&["export", "bugs"]);
                if ids.iter().all(|id| now.contains(*id)) && !gone.iter().any(|id| now.contains(*id)) {
                    return;
                }
                assert!(Instant::now() < gives_up, "{now}");
                std::thread::sleep(Duration::from_millis(50));
            }
        };
        has(&one, &[&ios, &web], &[&ops]);
        let [own_ios, own_web] = ["ios", "web"].map(|team| insert(&one, team));
        has(&hub, &[&own_ios, &own_web], &[]);

        put(&one, &issue(&["web", "ops"]));
        has(&one, &[&web, &own_web, &ops], &[&ios, &own_ios]);
        // What is not shown any more is still there, and what it does now is judged by the new rights.
        has(&hub, &[&ios, &own_ios, &web, &own_web, &ops], &[]);
        let refused = insert(&one, "ios");
        has(&one, &[&web, &own_web, &ops], &[&ios, &own_ios, &refused]);
        assert!(one.ok(&["rejected", "bugs"]).contains(&refused));
        put(&one, &issue(&["ios", "web"]));
        has(&one, &[&ios, &own_ios, &web, &own_web], &[&ops, &refused]);
        assert_eq!(running.stop(), Some(0));

        // The file says why: a row without contents.
        let file =
            blazedb::Database::open(one.0.join("data/bugs.blazedb"), blazedb::Password::Plaintext).unwrap();
        assert!(file.store().verify().unwrap().problems.is_empty());
        let why = |id: &String| file.store().why_removed(id.parse().unwrap()).unwrap();
        assert_eq!(why(&ops), Some(blazedb::RemovalReason::AccessRevoked));
        assert_eq!(why(&refused), Some(blazedb::RemovalReason::AccessRevoked));
        assert_eq!(why(&web), None);
    }
}
