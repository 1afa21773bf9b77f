//! Commands on one node's databases: with the files opened by the command, and through a running node.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use crate::common::Place;

    const ID: &str = "8fec61dc-3997-5fec-a310-de36eb18ec70";
    const NOBODY: &str = "00000000-0000-7000-8000-000000000000";
    const LOCAL: &str =
        "[databases.bugs]\nplaintext = true\nsearch = ['title']\n[databases.other]\nplaintext = true\n";

    /// Every answer of a fixed script: the same by both ways.
    fn script(place: &Place) -> Vec<String> {
        let record = format!(r#"{{"id":"{ID}","title":"crash","priority":8}}"#);
        assert_eq!(place.ok(&["insert", "bugs", &record]), ID);
        let changes = r#"{"gone":null,"votes":{"$inc":2},"tags":{"$add":["a"]}}"#;
        place.ok(&["update", "bugs", ID, changes, "--unset", "priority"]);
        let lines = "{\"n\":1}\n\n{\"n\":2}\nnope\n{\"n\":3}\n";
        let import = place.run_with(&["import", "bugs", "-"], lines);
        assert_eq!(import.code, 1);
        assert!(import.err.contains("stdin, line 4") && import.err.contains("2 records"), "{}", import.err);
        std::fs::write(place.0.join("x.csv"), "n,s\n7,a b\n").unwrap();
        std::fs::write(place.0.join("x.json"), "[{\"n\":9},{\"n\":8}]").unwrap();
        let csv = place.ok(&["import", "bugs", "x.csv", "--json"]);
        place.ok(&["import", "bugs", "x.json"]);
        let error = |args: &[&str], exit| format!("{:?}", place.fails(args, exit));
        vec![
            csv,
            place.ok(&["get", "bugs", ID]),
            place.ok(&["query", "bugs", "n > 1", "--count"]),
            place.ok(&[
                "query",
                "bugs",
                "n >= 7",
                "--order-by",
                "n:desc",
                "--select",
                "id",
                "--limit",
                "1",
                "--offset",
                "3",
            ]),
            place.ok(&["query", "bugs", "title == \"crash\"", "--select", "title"]),
            questions(place),
            transact(place),
            place.ok(&["conflicts", "bugs"]),
            place.ok(&["verify", "bugs"]),
            error(&["get", "bugs", NOBODY], 1),
            error(&["insert", "bugs", &record], 1),
            error(&["insert", "bugs", "[1]"], 2),
            error(&["query", "bugs", "n >"], 2),
            error(&["get", "nothing", NOBODY], 1),
            place.ok(&["delete", "bugs", ID]),
            error(&["delete", "bugs", ID], 1),
            place.ok(&["export", "bugs"]).lines().count().to_string(),
        ]
    }

    /// Groups, pages, searches, joins and changes of many.
    fn questions(place: &Place) -> String {
        let error = |args: &[&str], exit| format!("{:?}", place.fails(args, exit));
        let answers = [
            place
                .ok(&["query", "bugs", "--order-by", "n:desc", "--limit", "2", "--page", "--select", "n"])
                .lines()
                .last()
                .unwrap()
                .contains("next")
                .to_string(),
            place.ok(&["query", "bugs", "n == 1", "--explain"]),
            place.ok(&["aggregate", "bugs", "--measure", "count,sum:n,max:n", "--having", "count > 1"]),
            grouped_by_error(place),
            place.ok(&["update-all", "bugs", "n >= 8", r#"{"v":{"$vector":[1,0]},"k":1}"#, "--unset", "s"]),
            place.ok(&["nearest", "bugs", "v", "[0,1]", "n == 9", "--metric", "l2"])[..20].to_owned(),
            place.ok(&["aggregate", "bugs", "--group-by", "k", "-m", "count", "--order-by", "count:desc"]),
            place.ok(&["insert", "bugs", &format!(r#"{{"id":"{ID}","upserted":true}}"#), "--upsert"]),
            place.ok(&["delete-all", "bugs", "n == 2"]),
            place.ok(&["search", "bugs", "cra* -nothing", "upserted", "--limit", "5"]),
            place.ok(&["insert", "other", &format!(r#"{{"id":"{NOBODY}","bug":"{ID}","w":1}}"#)]),
            place.ok(&["join", "other", "bugs", "--on", "bug", "w == 1 && bugs.upserted"]),
            place.ok(&[
                "join",
                "bugs",
                "other",
                "--on",
                "id=bug",
                "--left",
                "--select",
                "n",
                "--order-by",
                "other.w:desc,n",
                "--limit",
                "1",
            ]),
            place.ok(&["join", "other", "other", "--as", "same", "--on", "id", "--explain"]),
            error(&["join", "other", "other", "--on", "id"], 2),
            error(&["search", "bugs", "-crash"], 2),
            error(&["search", "other", "crash"], 2),
            error(&["aggregate", "bugs", "-m", "median:n"], 2),
            error(&["nearest", "bugs", "v", "nope"], 2),
            error(&["query", "bugs", "--page", "--after", "nope"], 2),
            error(&["insert", "bugs", "{}", "--upsert"], 2),
        ];
        answers.join("\n")
    }

    /// Groups by a field that is called as errors are.
    fn grouped_by_error(place: &Place) -> String {
        let id = place.ok(&["insert", "other", r#"{"error":"boom","w":3}"#]);
        let groups = place.ok(&["aggregate", "other", "--group-by", "error", "-m", "sum:w"]);
        place.ok(&["delete", "other", &id]);
        assert!(groups.contains(r#"{"error":"boom""#), "{groups}");
        groups
    }

    /// Edits of two databases: a file that fails, and one that is done.
    fn transact(place: &Place) -> String {
        let other = "11111111-1111-7111-8111-111111111111";
        let line = |db, op, id, rest| format!(r#"{{"db":"{db}","op":"{op}","id":"{id}"{rest}}}"#);
        let insert = line("other", "insert", other, r#","set":{"w":5}"#);
        let update = line("bugs", "update", ID, r#","set":{"votes":{"$inc":1}},"unset":["tags"]"#);
        let bad = place.run_with(&["transact", "-"], &format!("{insert}\n\n{update}\n{insert}"));
        assert_eq!(bad.code, 1);
        assert!(bad.err.contains("stdin, line 4") && bad.err.contains("exists already"), "{}", bad.err);
        assert_eq!(place.fails(&["get", "other", other], 1).0, "not_found");
        let good = place.run_with(&["transact", "-"], &format!("{insert}\n{update}\n"));
        assert_eq!(good.code, 0, "{}", good.err);
        format!("{}{}{}", good.out, place.ok(&["get", "other", other]), place.ok(&["get", "bugs", ID]))
    }

    #[test]
    fn a_running_node_makes_no_difference() {
        let dir = tempfile::tempdir().unwrap();
        let alone = Place::new(dir.path(), "alone", LOCAL);
        let served = Place::new(dir.path(), "served", LOCAL);
        let (node, ready) = served.up();
        assert_eq!(ready, "ready node=served listen=- admin=-");
        let (by_files, by_node) = (script(&alone), script(&served));
        assert_eq!(by_files, by_node);
        assert!(
            by_files[1]
                .contains(r#""gone":null,"tags":{"$set":["a"]},"title":"crash","votes":{"$counter":2}"#)
        );
        assert_eq!(by_files[2], "4");
        let mut lines = by_files.iter().flat_map(|answer| answer.lines());
        let joined = lines.find(|line| line.starts_with(r#"{"bugs""#)).unwrap();
        assert!(joined.contains(&format!(r#""other":{{"bug":"{ID}","id":"{NOBODY}","w":1}}"#)), "{joined}");
        assert!(served.ok(&["status"]).contains("running"));
        assert_eq!(served.fails(&["up"], 1).0, "locked");
        assert_eq!(node.stop(), Some(0));
        assert!(served.ok(&["status"]).contains("stopped"));
        assert_eq!(served.ok(&["export", "bugs"]).lines().count(), 4);
    }

    #[test]
    fn files_are_backed_up_restored_and_locked_anew() {
        let dir = tempfile::tempdir().unwrap();
        let secret = "[databases.bugs]\npassword_env = 'TEST_PASSWORD'\n[databases.copy]\npassword_env = 'TEST_PASSWORD'\n\
                      [databases.renewed]\nfile = 'bugs.blazedb2'\npassword_env = 'NEW_PASSWORD'\n[databases.open]\n";
        let place = Place::new(dir.path(), "node", secret);
        place.ok(&["insert", "bugs", r#"{"a":1}"#]);
        place.ok(&["backup", "bugs", "b.bak"]);
        assert_eq!(place.fails(&["backup", "bugs", "b.bak"], 1).0, "conflict");
        place.ok(&["restore", "b.bak", "copy"]);
        assert_eq!(place.fails(&["restore", "b.bak", "copy"], 1).0, "conflict");
        assert_eq!(place.ok(&["export", "copy"]), place.ok(&["export", "bugs"]));
        place.ok(&["passwd", "bugs", "--new-password-env", "NEW_PASSWORD"]);
        assert_eq!(place.fails(&["query", "bugs"], 5).0, "wrong_password");
        let data = place.0.join("data");
        std::fs::rename(data.join("bugs.blazedb"), data.join("bugs.blazedb2")).unwrap();
        assert_eq!(place.ok(&["export", "copy"]), place.ok(&["export", "renewed"]));
        let (code, message) = place.fails(&["query", "open"], 2);
        assert!(
            code == "config" && message.contains("open") && message.contains("password_env"),
            "{message}"
        );
        let mut bytes = std::fs::read(data.join("bugs.blazedb2")).unwrap();
        bytes[5_000..6_000].fill(7);
        std::fs::write(data.join("bugs.blazedb2"), bytes).unwrap();
        assert_eq!(place.fails(&["verify", "renewed"], 5).0, "damaged");
    }

    #[test]
    fn what_changes_is_seen_as_it_happens_and_other_commands_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path(), "node", LOCAL);
        place.ok(&["insert", "bugs", &format!(r#"{{"id":"{ID}","n":1}}"#)]);
        let mut watch = place.start(&["watch", "bugs", "n > 0"]);
        assert!(watch.line().starts_with(r#"{"kind":"added""#));
        place.ok(&["update", "bugs", ID, r#"{"n":2}"#]);
        assert!(watch.line().contains(r#""kind":"changed""#));
        place.ok(&["insert", "other", "{}"]);
        place.ok(&["update", "bugs", ID, r#"{"n":0}"#]);
        let gone: serde_json::Value = serde_json::from_str(&watch.line()).unwrap();
        assert_eq!((&gone["kind"], &gone["record"]), (&"removed".into(), &serde_json::json!({ "id": ID })));
        assert_eq!(watch.stop(), Some(0));
    }

    #[test]
    fn relations_of_the_topology_file_hold_for_every_command() {
        let dir = tempfile::tempdir().unwrap();
        let relations = "[databases.users]\nplaintext = true\n[databases.bugs]\nplaintext = true\n\
                         relations = { author = { to = 'users', on_delete = 'restrict' } }\n\
                         [databases.comments]\nplaintext = true\n[databases.comments.relations.bug]\nto = 'bugs'\non_delete = 'cascade'\n";
        let place = Place::new(dir.path(), "node", relations);
        place.ok(&["insert", "users", &format!(r#"{{"id":"{ID}"}}"#)]);
        let bug = place.ok(&["insert", "bugs", &format!(r#"{{"author":"{ID}"}}"#)]);
        place.ok(&["insert", "comments", &format!(r#"{{"bug":"{bug}"}}"#)]);
        let (code, message) = place.fails(&["delete", "users", ID], 1);
        assert!(code == "conflict" && message.contains("author"), "{message}");
        assert_eq!(place.fails(&["delete-all", "users", "true"], 1).0, "conflict");
        place.ok(&["delete", "bugs", &bug]);
        assert_eq!(place.ok(&["query", "comments", "--count"]), "0");
        place.ok(&["delete", "users", ID]);
        let dangling = place.fails(&["insert", "bugs", &format!(r#"{{"author":"{ID}"}}"#)], 1);
        assert_eq!(dangling.0, "conflict");
    }

    #[test]
    fn configuration_errors_have_their_place() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path(), "node", "[databases.bugs]\nplaintext = true\nfiel = 'x'\n");
        let (code, message) = place.fails(&["query", "bugs"], 2);
        assert!(code == "config" && message.contains("blazedb.toml:6:1"), "{message}");
    }
}
