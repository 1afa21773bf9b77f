//! `--remote` between real processes: through a running node and without one, and what refuses it.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::common::Place;

    const HUB: &str = "listen = '127.0.0.1:0'\n[auth]\nissuers = [{ name = 'self', key_file = 'data/issuer.pub' }]\n\
         [databases.bugs]\nplaintext = true\nserve = 'bidirectional'\nsearch = ['title']\n\
         [databases.bugs.access]\nconnect = 'true'\nread = 'record.teamId in user.teams'\n";

    fn device(dir: &Path, name: &str, address: &str, more: &str) -> Place {
        let topology = format!(
            "token_file = 'me.jwt'\n[databases.drafts]\nplaintext = true\n\
             [databases.bugs]\nplaintext = true\npattern = 'hub-and-spoke'\nhub = 'ws://{address}'\n\
             [databases.bugs.policy]\nwhere = 'priority > 100'\n{more}"
        );
        Place::new(dir, name, &topology)
    }

    /// What a device asks; the same with a running node and without.
    fn ask(one: &Place) -> Vec<String> {
        let lines = [
            &[
                "query",
                "bugs",
                "priority > 3",
                "--order-by",
                "priority:desc",
                "--select",
                "title,priority",
                "--remote",
            ][..],
            &[
                "query",
                "bugs",
                "--limit",
                "1",
                "--offset",
                "1",
                "--order-by",
                "priority",
                "--select",
                "title",
                "--remote",
            ],
            &["query", "bugs", "--count", "--remote"],
            &["query", "bugs", "--count", "--limit", "1", "--remote"],
            &["aggregate", "bugs", "--group-by", "teamId", "-m", "count,max:priority", "--remote"],
            &["search", "bugs", "crash", "--remote"],
            &["search", "bugs", "crash", "priority < 4", "--limit", "5", "--remote"],
        ];
        lines.iter().map(|line| one.ok(line)).collect()
    }

    #[test]
    fn the_hub_is_asked_for_what_is_not_here() {
        let dir = tempfile::tempdir().unwrap();
        let hub = Place::new(dir.path(), "hub", HUB);
        let (node, ready) = hub.up();
        let address = crate::common::address_in(&ready);
        for (team, title, priority) in
            [("ios", "crash on start", 3), ("ios", "crash crash", 8), ("web", "crash elsewhere", 9)]
        {
            let bug = format!("{{\"teamId\":\"{team}\",\"title\":\"{title}\",\"priority\":{priority}}}");
            hub.ok(&["insert", "bugs", &bug]);
        }
        let one = device(dir.path(), "one", &address, "");
        assert_eq!(one.fails(&["query", "bugs", "--remote"], 4).0, "unauthenticated", "no token file");
        let token = hub.ok(&["token", "issue", "--user", "anna", "--team", "ios"]);
        std::fs::write(one.0.join("me.jwt"), &token).unwrap();
        let answers = ask(&one);
        assert!(answers[0].contains("\"priority\":8") && answers[0].lines().count() == 1, "{}", answers[0]);
        assert!(answers[1].contains("crash crash"), "{}", answers[1]);
        assert_eq!(answers[2..4], ["2", "1"]);
        assert_eq!(answers[4], "{\"count\":2,\"max_priority\":8,\"teamId\":\"ios\"}");
        assert!(answers[5].lines().count() == 2 && answers[5].contains("[crash] on start"), "{}", answers[5]);
        assert!(answers[6].lines().count() == 1 && !answers[5].contains("elsewhere"), "{}", answers[6]);
        assert_eq!(one.ok(&["query", "bugs", "--count"]), "0", "nothing of it is here");
        {
            let (_running, _) = one.up();
            assert_eq!(ask(&one), answers);
        }
        let (code, message) = one.fails(&["query", "bugs", "priority >", "--remote"], 2);
        assert!(code == "invalid" && message.contains("column"), "{message}");
        assert_eq!(one.fails(&["query", "drafts", "--remote"], 2).0, "usage");

        let sealed =
            device(dir.path(), "sealed", &address, "encryption = 'e2e-only'\nrouting_fields = ['teamId']\n");
        std::fs::write(sealed.0.join("me.jwt"), &token).unwrap();
        let (_, message) = sealed.fails(&["search", "bugs", "crash", "--remote"], 2);
        assert!(
            message.contains("sealed for the other side") && message.contains("only about teamId"),
            "{message}"
        );
        assert_eq!(sealed.ok(&["query", "bugs", "teamId == \"ios\"", "--count", "--remote"]), "2");

        node.stop();
        let (code, message) = one.fails(&["search", "bugs", "crash", "--remote"], 3);
        assert!(code == "unreachable" && message.contains(&address), "{message}");
    }
}
