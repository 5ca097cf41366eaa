//! Which topics a filter selects, and topic names that are legal and strange.

use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::client::Message;
use rumqttc::QoS;

use crate::support::{config, contents, contents_of, end, publish_to_end, read_to_end, source, subscribed};

/// Subscribes to each of `cases` with a source of its own, publishes to all of `topics`, and compares.
async fn selects(topics: &[&str], cases: &[(&str, &[&str])]) {
    let broker = Broker::launch().await.unwrap();
    let mut sources = Vec::new();
    for (filter, _) in cases {
        let source = source(config(broker.url(), &[filter]));
        subscribed(&source).await;
        sources.push(source);
    }
    let messages: Vec<_> = topics.iter().map(|topic| Message::new(*topic, *topic)).collect();
    publish_to_end(&broker, QoS::AtLeastOnce, &messages).await;
    for (source, (filter, selected)) in sources.into_iter().zip(cases) {
        assert!(selected.iter().all(|topic| topics.contains(topic)), "{filter}");
        let expected: Vec<_> =
            messages.iter().filter(|message| selected.contains(&message.topic.as_str())).cloned().collect();
        assert_eq!(contents(&read_to_end(&source).await), contents_of(&expected), "{filter}");
        end(source).await;
    }
}

pub async fn multi_level_wildcard() {
    let topics = [
        "devices",
        "devices/",
        "devices/a",
        "devices/a/b",
        "devices/a/b/c/d/e/f",
        "device",
        "devices2/a",
        "x/devices/a",
        "/devices",
    ];
    let below = &topics[..5];
    selects(
        &[&topics[..], &["$devices/a"]].concat(),
        &[
            // The parent level too (section 4.7.1.2).
            ("devices/#", below),
            ("devices/a/#", &["devices/a", "devices/a/b", "devices/a/b/c/d/e/f"]),
            ("devices/+/#", &["devices/", "devices/a", "devices/a/b", "devices/a/b/c/d/e/f"]),
            ("/#", &["/devices"]),
            ("+/devices/#", &["x/devices/a", "/devices"]),
            // All but those that begin with $ (section 4.7.2).
            ("#", &topics),
        ],
    )
    .await;
}

pub async fn single_level_wildcard_positions() {
    let topics =
        ["a", "b", "a/b", "a/b/c", "x/b/c", "a/x/c", "a/b/x", "a/b/c/d", "a//c", "/b/c", "a/b/", "/"];
    selects(
        &topics,
        &[
            ("+/b/c", &["a/b/c", "x/b/c", "/b/c"]),
            ("a/+/c", &["a/b/c", "a/x/c", "a//c"]),
            ("a/b/+", &["a/b/c", "a/b/x", "a/b/"]),
            ("+/+/c", &["a/b/c", "x/b/c", "a/x/c", "a//c", "/b/c"]),
            ("+/b/+", &["a/b/c", "x/b/c", "a/b/x", "/b/c", "a/b/"]),
            ("+/+/+", &["a/b/c", "x/b/c", "a/x/c", "a/b/x", "a//c", "/b/c", "a/b/"]),
            ("+/+/+/+", &["a/b/c/d"]),
            ("+", &["a", "b"]),
            ("/+", &["/"]),
            ("+/+", &["a/b", "/"]),
        ],
    )
    .await;
}

pub async fn special_topic_names() {
    let longest = format!("long/{}", "ö".repeat((65_535 - 5) / 2));
    let deep = "d/".repeat(150) + "d";
    let names = [
        "with space/ and another /",
        "emoji/🌡️/🏭",
        "/leading",
        "trailing/",
        "a//b",
        "/",
        "//",
        "日本/東京/温度",
        "a/$b/$SYS",
        "Case/case/CASE",
        "quotes/\"double\"/'single'/back\\slash",
        "percent/%20/%/{topic}/${HOME}",
        "dots/../.",
        // Composed and decomposed: not the same name, because nothing is normalised (section 4.7.3).
        "\u{e9}tage",
        "e\u{301}tage",
        // Not to be stripped (MQTT-1.5.3-3).
        "\u{feff}bom",
        "edge/\u{10fffd}/\u{a0}/~",
        &deep,
        &longest,
    ];
    let broker = Broker::launch().await.unwrap();
    let all = source(config(broker.url(), &["#", "$private/#"]));
    subscribed(&all).await;
    // Each is a filter too, which selects itself.
    let mut exact = Vec::new();
    for name in names {
        let source = source(config(broker.url(), &[name]));
        subscribed(&source).await;
        exact.push(source);
    }
    let mut messages: Vec<_> = names.iter().map(|name| Message::new(*name, *name)).collect();
    messages.push(Message::new("$private/state", "hidden from #"));
    publish_to_end(&broker, QoS::AtLeastOnce, &messages).await;
    let events = read_to_end(&all).await;
    assert_eq!(contents(&events), contents_of(&messages));
    for (event, message) in events.iter().zip(&messages) {
        let json: serde_json::Value = serde_json::from_str(&event.to_json()).unwrap();
        assert_eq!(json["topic"], message.topic.as_str());
    }
    for (source, message) in exact.into_iter().zip(&messages) {
        assert_eq!(contents(&read_to_end(&source).await), contents_of(std::slice::from_ref(message)));
        end(source).await;
    }
    end(all).await;
}
