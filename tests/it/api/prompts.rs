//! Server-side prompts.

use relaystream::app::settings;
use relaystream::config::{Config, Environment};
use serde_json::{Value, json};

use crate::harness::{Answer, FakeProvider, Script, Server};

#[tokio::test]
async fn shipped_prompts_are_listed_and_shown() {
    let server = Server::demo().await;
    let list = server.json("/v1/prompts").await;
    let names: Vec<&str> =
        list["prompts"].as_array().unwrap().iter().map(|prompt| prompt["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["summarize", "support-reply", "translate"]);
    let shown = server.json("/v1/prompts/translate").await;
    assert_eq!(shown["name"], "translate");
    assert!(shown.to_string().contains("the language to translate into"));
    let missing = Answer::of(server.send(server.get("/v1/prompts/nothing")).await).await;
    assert_eq!((missing.status, missing.code().as_str()), (404, "not_found"));
    assert!(missing.text.contains("nothing"));
    server.finish().await;
}

#[tokio::test]
async fn a_prompt_and_its_variables_become_messages() {
    let provider = FakeProvider::new([Script::answer(&["Hallo"])]).await;
    let server = Server::before(&provider, "").await;
    let body = json!({"model": "fake-1", "prompt": "translate", "variables": {"text": "Hello {{to}}", "to": "German"}});
    let id = server.start(&body).await;
    server.ended(&id).await;
    let sent = provider.request(0).await.body();
    assert_eq!(sent["messages"][0]["role"], "system");
    assert!(sent["messages"][0]["content"].as_str().unwrap().contains("into German"));
    // Variables are text, never template.
    assert!(
        sent["messages"].as_array().unwrap().last().unwrap()["content"]
            .as_str()
            .unwrap()
            .contains("Hello {{to}}")
    );
    assert_eq!(sent["temperature"], 0.2);
    assert!(sent.get("prompt").is_none() && sent.get("variables").is_none());
    server.finish().await;
}

#[tokio::test]
async fn missing_and_wrong_variables_are_named() {
    let server = Server::demo().await;
    for (variables, named) in [
        (json!({}), vec!["text", "to"]),
        (json!({"text": 1, "to": "German"}), vec!["text"]),
        (json!({"text": "Hi", "to": "German", "tone": "rude"}), vec!["tone"]),
    ] {
        let body = json!({"model": "demo", "prompt": "translate", "variables": variables});
        let answer = Answer::of(server.send(server.post("/v1/streams", &body)).await).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, "invalid"), "{variables}");
        for name in named {
            assert!(answer.text.contains(name), "{name} in {}", answer.text);
        }
    }
    let unknown = json!({"model": "demo", "prompt": "nothing"});
    let answer = Answer::of(server.send(server.post("/v1/streams", &unknown)).await).await;
    assert_eq!((answer.status, answer.json()["error"]["param"].clone()), (404, json!("prompt")));
    server.finish().await;
}

#[tokio::test]
async fn a_directory_overrides_what_is_shipped() {
    let directory = tempfile::tempdir().unwrap();
    let text =
        "---\nmodel: fake-9\ninput:\n  schema:\n    who: string\n---\n{{role \"user\"}}\nGreet {{who}}.";
    std::fs::write(directory.path().join("translate.prompt"), text).unwrap();
    let provider = FakeProvider::new([Script::answer(&["Hi"])]).await;
    let config = format!("[prompts]\npath = {:?}\n", directory.path().display().to_string());
    let server = Server::before(&provider, &config).await;
    let id = server.start(&json!({"prompt": "translate", "variables": {"who": "Ann"}})).await;
    server.ended(&id).await;
    let sent = provider.request(0).await.body();
    assert_eq!(sent["model"], "fake-9");
    assert_eq!(sent["messages"][0]["content"].as_str().unwrap().trim(), "Greet Ann.");
    server.finish().await;
}

/// A folder with these prompts, and the configuration that names it.
fn prompts(files: &[(&str, &str)]) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(format!("{name}.prompt")), text).unwrap();
    }
    let config = format!("[prompts]\npath = {:?}\n", folder.path().display().to_string());
    (folder, config)
}

const STYLE: &str = "---\nconfig: {temperature: 0.1, maxOutputTokens: 99}\n---\n{{role \"system\"}}Be kind.{{role \"user\"}}never";

#[tokio::test]
async fn a_models_prompt_stands_in_front_on_every_surface_over_every_dialect() {
    let (_folder, config) = prompts(&[("style", STYLE)]);
    let provider = FakeProvider::new([Script::json(400, &json!({"error": {"message": "seen"}}))]).await;
    let dialects = ["openai-chat", "openai-responses", "anthropic", "gemini", "ollama"];
    let models = dialects.map(|dialect| {
        let target =
            format!("[models.{dialect}]\ntargets = [{{ provider = \"p-{dialect}\", model = \"x\" }}]\n");
        format!("{target}prompt = \"style\"\n{}", provider.speaking(&format!("p-{dialect}"), dialect))
    });
    let server = Server::new(&format!("{config}{}", models.concat())).await;
    let mut calls = 0;
    for dialect in dialects {
        let turns = json!([{"role": "user", "content": "Hi"}]);
        let parts = json!([{"id": "u", "role": "user", "parts": [{"type": "text", "text": "Hi"}]}]);
        let contents = json!({"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]});
        for (path, body) in [
            ("/v1/streams", json!({"model": dialect, "input": "Hi"})),
            ("/v1/chat/completions", json!({"model": dialect, "messages": turns})),
            ("/v1/responses", json!({"model": dialect, "input": "Hi"})),
            ("/v1/messages", json!({"model": dialect, "max_tokens": 7, "messages": turns})),
            (&format!("/v1beta/models/{dialect}:generateContent"), contents),
            ("/api/chat", json!({"id": format!("c-{dialect}"), "model": dialect, "messages": parts})),
        ] {
            Answer::of(server.send(server.post(path, &body)).await).await;
            let sent = provider.request(calls).await.text;
            calls += 1;
            assert_eq!(
                (sent.matches("Be kind.").count(), sent.contains("never")),
                (1, false),
                "{path} {dialect}: {sent}"
            );
            let most = if path == "/v1/messages" { "7" } else { "99" };
            assert!(sent.contains("0.1") && sent.contains(most), "{path} {dialect}: {sent}");
        }
    }
    // What is counted is what would be sent.
    let turns = json!([{"role": "user", "content": "Hi"}]);
    let contents = json!({"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]});
    for (path, body) in [
        ("/v1/messages/count_tokens", json!({"model": "anthropic", "messages": turns})),
        ("/v1beta/models/gemini:countTokens", contents.clone()),
        ("/v1beta/models/gemini:countTokens", json!({"generateContentRequest": contents})),
    ] {
        Answer::of(server.send(server.post(path, &body)).await).await;
        let sent = provider.request(calls).await;
        calls += 1;
        let body = sent.body();
        let system = match path.starts_with("/v1beta") {
            true => &body["generateContentRequest"]["systemInstruction"]["parts"][0]["text"],
            false => &body["system"],
        };
        assert_eq!((system, sent.text.contains("0.1")), (&json!("Be kind."), false), "{path}: {}", sent.text);
    }
    server.finish().await;
}

#[tokio::test]
async fn what_a_client_says_itself_comes_after_its_models_prompt_or_in_place_of_it() {
    let (_folder, config) = prompts(&[("style", STYLE)]);
    let provider = FakeProvider::new([Script::answer(&["ok"])]).await;
    let model = "[models.m]\ntargets = [{ provider = \"fake\", model = \"fake-1\" }]\nprompt = \"style\"\n";
    let server = Server::before(&provider, &format!("{config}{model}")).await;
    let messages = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]);
    let id = server.start(&json!({"model": "m", "messages": messages, "temperature": 1})).await;
    server.ended(&id).await;
    let sent = provider.request(0).await.body();
    let said: Vec<&Value> =
        sent["messages"].as_array().unwrap().iter().map(|message| &message["content"]).collect();
    assert_eq!(said, ["Be kind.", "Be brief.", "Hi"]);
    assert_eq!((&sent["temperature"], &sent["max_tokens"]), (&json!(1), &json!(99)));
    let own = json!({"model": "m", "prompt": "translate", "variables": {"text": "Hi", "to": "German"}});
    server.ended(&server.start(&own).await).await;
    let sent = provider.request(1).await;
    assert!(sent.text.contains("into German") && !sent.text.contains("Be kind."), "{}", sent.text);
    server.finish().await;
}

#[test]
fn a_models_prompt_must_be_there_and_need_nothing() {
    let refusal = |text: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let config = Config::load(Some(file.path()), &Environment::new()).unwrap();
        settings(&config, false, &Environment::new())
            .err()
            .map_or_else(String::new, |error| format!("{error:#}"))
    };
    let of = |prompt: &str| {
        format!("[models.m]\ntargets = [{{ provider = \"demo\", model = \"demo\" }}]\nprompt = \"{prompt}\"")
    };
    assert!(refusal(&of("nope")).starts_with("models.m.prompt: there is no prompt `nope`"));
    let needs = refusal(&of("translate"));
    assert!(needs.starts_with("models.m.prompt: variable `text`: missing"), "{needs}");
    assert_eq!(refusal("[defaults]\nprompt = \"x\""), "defaults.prompt: a prompt is a model's own");
}
