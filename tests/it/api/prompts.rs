//! Server-side prompts.

use serde_json::json;

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
