//! The command line: `check`, `tail`, and what `serve` reloads while it runs.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::binary::{Binary, command};
use crate::harness::{client, soon};

const PROMPT: &str = "---\ndescription: first\ninput:\n  schema:\n    a: string\n---\nSay {{a}}.\n";

async fn get(binary: &Binary, path: &str) -> Value {
    let answer = client().get(format!("http://{}{path}", binary.address)).send().await.unwrap();
    serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
}

async fn description(binary: &Binary, name: &str) -> Value {
    get(binary, &format!("/v1/prompts/{name}")).await["description"].clone()
}

async fn until(binary: &Binary, name: &str, expected: &str) {
    soon("the reload", async {
        while description(binary, name).await != expected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn prompts_and_settings_are_reloaded_and_mistakes_keep_the_last_good_ones() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    std::fs::create_dir(directory.path().join("prompts")).unwrap();
    write("prompts/own.prompt", PROMPT);
    let config = "[prompts]\npath = \"prompts\"\n";
    write("c.toml", config);
    let binary = Binary::serving(&directory, &["--config", "c.toml"], &[]).await;
    assert_eq!(description(&binary, "own").await, "first");
    write("prompts/own.prompt", &PROMPT.replace("first", "second"));
    until(&binary, "own", "second").await;
    // A mistake in one of two new files: neither is taken, and the next good state is.
    write("prompts/own.prompt", "---\ninput: [\n---\n");
    write("prompts/more.prompt", &PROMPT.replace("first", "third"));
    binary.signal("HUP");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(description(&binary, "own").await, "second");
    assert_eq!(description(&binary, "more").await, Value::Null);
    write("prompts/own.prompt", PROMPT);
    until(&binary, "more", "third").await;
    // Models too, from the configuration file.
    write(
        "c.toml",
        &format!("{config}[models.mine]\ntargets = [{{ provider = \"demo\", model = \"demo-fast\" }}]\n"),
    );
    soon("the alias", async {
        while !get(&binary, "/v1/models").await.to_string().contains("\"mine\"") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    binary.signal("TERM");
    assert_eq!(binary.exit().await.code(), Some(0));
}

#[tokio::test]
async fn what_a_changed_configuration_names_is_watched_too() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    for folder in ["one", "two", "keys"] {
        std::fs::create_dir(directory.path().join(folder)).unwrap();
    }
    let config = |folder: &str, key: &str| {
        format!("[prompts]\npath = \"{folder}\"\n[[auth.keys]]\nkey = \"{key}\"\nuser = \"ann\"\n")
    };
    write("one/own.prompt", PROMPT);
    write("two/own.prompt", &PROMPT.replace("first", "second"));
    write("keys/anns", "before");
    write("c.toml", &config("one", "before"));
    let binary = Binary::serving(&directory, &["--config", "c.toml"], &[]).await;
    let told = async |key: &str, expected: &str| {
        let url = format!("http://{}/v1/prompts/own", binary.address);
        let description = async || {
            let answer = client().get(&url).bearer_auth(key).send().await.unwrap().bytes().await.unwrap();
            serde_json::from_slice::<Value>(&answer).unwrap()["description"].clone()
        };
        soon(expected, async {
            while description().await != expected {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    };
    told("before", "first").await;
    write("c.toml", &config("two", "file:keys/anns"));
    told("before", "second").await;
    write("two/own.prompt", &PROMPT.replace("first", "third"));
    told("before", "third").await;
    write("keys/anns", "after");
    told("after", "third").await;
    binary.signal("TERM");
    assert_eq!(binary.exit().await.code(), Some(0));
}

/// Nobody could give it any: a model's prompt that begins to need variables is a mistake like any other.
#[tokio::test]
async fn a_models_prompt_is_checked_when_it_changes() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    let plain = |description: &str| format!("---\ndescription: {description}\n---\nBe kind.\n");
    write("own.prompt", &plain("first"));
    write(
        "c.toml",
        "[prompts]\npath = \".\"\n[models.mine]\ntargets = [{ provider = \"demo\", model = \"demo\" }]\nprompt = \"own\"\n",
    );
    let binary = Binary::serving(&directory, &["--config", "c.toml"], &[]).await;
    write("own.prompt", &PROMPT.replace("first", "second"));
    binary.signal("HUP");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(description(&binary, "own").await, "first");
    let check = command(&directory).args(["check", "--config", "c.toml"]).output().unwrap();
    let said = String::from_utf8(check.stderr).unwrap();
    assert!(check.status.code() == Some(2) && said.contains("models.mine.prompt: variable `a`"), "{said}");
    write("own.prompt", &plain("third"));
    until(&binary, "own", "third").await;
    binary.signal("TERM");
    assert_eq!(binary.exit().await.code(), Some(0));
}

#[tokio::test]
async fn check_says_what_would_be_served_or_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let fine = command(&directory).arg("check").output().unwrap();
    let said = String::from_utf8(fine.stdout).unwrap();
    assert!(fine.status.success() && said.contains("demo/demo") && said.contains("summarize"), "{said}");
    std::fs::write(directory.path().join("broken.prompt"), "---\nmodel: [\n---\nx").unwrap();
    std::fs::write(directory.path().join("c.toml"), "[prompts]\npath = \".\"").unwrap();
    let wrong = command(&directory).args(["check", "--config", "c.toml"]).output().unwrap();
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{said}");
    assert!(said.contains("broken.prompt:"), "file and line: {said}");
}

#[tokio::test]
async fn tail_prints_a_stream_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let binary = Binary::serving(&directory, &[], &[]).await;
    let server = format!("http://{}", binary.address);
    let body = json!({"model": "demo", "input": "Hi"}).to_string();
    let started = client().post(format!("{server}/v1/streams")).body(body).send().await.unwrap();
    let id = started.headers()["x-stream-id"].to_str().unwrap().to_owned();
    let mut tail = command(&directory);
    tail.args(["tail", &id, "--server", &server]);
    let output = soon("its end", tokio::task::spawn_blocking(move || tail.output().unwrap())).await.unwrap();
    let text = get(&binary, &format!("/v1/streams/{id}")).await["text"].as_str().unwrap().to_owned();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim_end(), text.trim_end());
    binary.signal("TERM");
    assert_eq!(binary.exit().await.code(), Some(0));
}

/// Exit code and standard output of `relaystream store`.
fn store(directory: &tempfile::TempDir, arguments: &[&str], input: &[u8]) -> (Option<i32>, String) {
    let mut child = command(directory).arg("store").args(arguments).stdin(Stdio::piped()).spawn().unwrap();
    // What fails may not have read it all.
    let _read = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn a_store_is_checked_exported_imported_and_compacted() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(store(&directory, &["check"], b"").0, Some(2), "there is none yet");
    let binary = Binary::serving(&directory, &[], &[]).await;
    let server = format!("http://{}", binary.address);
    let mut ids = Vec::new();
    for n in 0..3 {
        let body =
            json!({"model": "demo/demo-fast", "input": format!("Hi {n}"), "session": "room"}).to_string();
        let started = client().post(format!("{server}/v1/streams")).body(body).send().await.unwrap();
        ids.push(started.headers()["x-stream-id"].to_str().unwrap().to_owned());
    }
    for id in &ids {
        let events = client().get(format!("{server}/v1/streams/{id}/events")).send().await.unwrap();
        soon("its end", events.bytes()).await.unwrap();
    }
    let (code, _) = store(&directory, &["check"], b"");
    assert_eq!(code, Some(2), "a server uses it");
    binary.signal("TERM");
    assert_eq!(binary.exit().await.code(), Some(0));

    let (code, said) = store(&directory, &["check"], b"");
    assert!(code == Some(0) && ids.iter().all(|id| said.contains(&format!("{id}  finished"))), "{said}");
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let (code, exported) = store(&directory, &["export"], b"");
    assert!(code == Some(0) && exported.lines().count() > 20, "{exported}");
    let (_, one) = store(&directory, &["export", &ids[1]], b"");
    assert!(one.contains(&ids[1]) && !one.contains(&ids[0]) && exported.contains(&one));
    assert_eq!(store(&directory, &["import"], exported.as_bytes()).0, Some(2), "it is not empty");
    assert_eq!(store(&directory, &["compact"], b"").0, Some(0));
    assert_eq!(
        sorted(&store(&directory, &["export"], b"").1),
        sorted(&exported),
        "compacting changes nothing"
    );

    let elsewhere = tempfile::tempdir().unwrap();
    assert_eq!(store(&elsewhere, &["import"], b"{\"log\": 1}\n").0, Some(2));
    std::fs::remove_dir_all(elsewhere.path().join("data")).unwrap();
    assert_eq!(store(&elsewhere, &["import"], exported.as_bytes()).0, Some(0));
    assert_eq!(sorted(&store(&elsewhere, &["export"], b"").1), sorted(&exported));
    // Served again, from there.
    let binary = Binary::serving(&elsewhere, &[], &[]).await;
    for id in &ids {
        assert_eq!(get(&binary, &format!("/v1/streams/{id}")).await["status"], "completed");
    }
    binary.signal("TERM");
    assert_eq!(binary.exit().await.code(), Some(0));
    // A flaw is named.
    let archive =
        std::fs::read_dir(elsewhere.path().join("data/archive")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&archive).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&archive, &bytes).unwrap();
    let (code, said) = store(&elsewhere, &["check"], b"");
    assert!(code == Some(1) && said.contains("DAMAGED") && said.contains("1 damaged"), "{said}");
}
