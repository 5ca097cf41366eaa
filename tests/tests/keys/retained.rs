//! Retained messages (section 3.3.1.3).

use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::client::{Message, publish};
use rumqttc::QoS;
use serde_json::json;

use crate::{lines, start, start_many, with};

const SPELLINGS: [&str; 3] = ["all", "new_only", "skip"];

/// With subscriptions that are all new.
#[tokio::test(flavor = "multi_thread")]
async fn key_retained() {
    for version in ["3.1.1", "5.0"] {
        let broker = Broker::launch().await.unwrap();
        publish(broker.port(), QoS::AtLeastOnce, [Message::new("kept/a", "old").retained()]).await.unwrap();
        // The default is the first.
        let keys = [json!({}), json!({ "retained": "new_only" }), json!({ "retained": "skip" })];
        let mut host = start_many(keys.into_iter().map(|mut keys| {
            keys["topics"] = json!(["kept/#"]);
            keys["mqtt_version"] = version.into();
            with(&broker.url(), keys)
        }));
        host.ready().await.unwrap();
        // For those who are subscribed these are messages like any other, whether they are retained or not.
        let live = [Message::new("kept/a", "live").retained(), Message::new("kept/b", "end")];
        publish(broker.port(), QoS::AtLeastOnce, live).await.unwrap();
        let found = lines(&host, 3 + 3 + 2).await;
        for (index, expected) in
            [&["old", "live", "end"][..], &["old", "live", "end"], &["live", "end"]].into_iter().enumerate()
        {
            let of_source: Vec<_> = found
                .iter()
                .filter(|line| line.topic == format!("to-{index:02}"))
                .map(|line| String::from_utf8_lossy(&line.value).into_owned())
                .collect();
            assert_eq!(of_source, expected, "{version}, {}", SPELLINGS[index]);
        }
        let ledger = host.ledger().await.unwrap();
        // 5.0 does not even send what is not wanted.
        let dropped = u64::from(version == "3.1.1");
        assert_eq!((ledger.received, ledger.committed, ledger.dropped), (8 + dropped, 8, dropped));
    }
}

/// With a filter that the session has already and one that is new, which makes the host subscribe again.
#[tokio::test(flavor = "multi_thread")]
async fn key_retained_of_filters_that_the_session_has() {
    for (version, retained, expected) in [
        ("3.1.1", "all", &["old", "old", "more", "end"][..]),
        ("3.1.1", "new_only", &["old", "more", "end"]),
        ("5.0", "all", &["old", "old", "more", "end"]),
        ("5.0", "new_only", &["old", "more", "end"]),
        ("3.1.1", "skip", &["end"]),
        ("5.0", "skip", &["end"]),
    ] {
        let broker = Broker::launch().await.unwrap();
        let kept = [Message::new("kept/a", "old").retained(), Message::new("more/a", "more").retained()];
        publish(broker.port(), QoS::AtLeastOnce, kept).await.unwrap();
        let keys = json!({
            "topics": ["kept/#"], "clean_session": false, "client_id": "stays", "retained": retained,
            "mqtt_version": version,
        });
        let mut host = start(with(&broker.url(), keys));
        host.ready().await.unwrap();
        lines(&host, usize::from(retained != "skip")).await;
        assert_eq!(host.terminate().await.unwrap().code(), Some(0));
        let file = host.folder().join("config.yaml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("\"kept/#\"", "\"kept/#\", \"more/#\"")).unwrap();
        host.restart().unwrap();
        host.ready().await.unwrap();
        publish(broker.port(), QoS::AtLeastOnce, [Message::new("kept/b", "end")]).await.unwrap();
        let found = lines(&host, expected.len()).await;
        let mut values: Vec<_> =
            found.iter().map(|line| String::from_utf8_lossy(&line.value).into_owned()).collect();
        // Filters bring what is retained in any order.
        values.sort_by_key(|value| ["old", "more", "end"].iter().position(|known| known == value));
        assert_eq!(values, expected, "{version}, {retained}");
    }
}
