//! The same against the real server.

use clap::Parser;
use rivven_client::Client;
use rivvend::cli::Cli;
use rivvend::cluster_server::ClusterServer;

use super::*;

struct Rivvend {
    address: String,
    _data: tempfile::TempDir,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Rivvend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn rivvend() -> Rivvend {
    let free = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let (address, api, data) = (free(), free(), tempfile::tempdir().unwrap());
    let folder = data.path().to_str().unwrap();
    let arguments =
        ["rivvend", "--bind", &address, "--api-bind", &api, "--data-dir", folder, "--no-require-auth"];
    let server = ClusterServer::new(Cli::parse_from(arguments)).await.unwrap();
    let task = tokio::spawn(async move { server.start().await.unwrap() });
    Rivvend { address, _data: data, task }
}

/// Every record of a topic: partition, key, value.
async fn consume(client: &mut Client, topic: &str) -> Vec<(u32, Option<String>, String)> {
    let mut records = Vec::new();
    let (_, partitions) = client.get_metadata(topic).await.unwrap();
    for partition in 0..partitions {
        for message in client.consume(topic, partition, 0, 1_000).await.unwrap() {
            records.push((partition, message.key.map(|key| text(&key)), text(&message.value)));
        }
    }
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn records_can_be_read_back_from_rivvend() {
    let rivvend = rivvend().await;
    let topics = vec![("events".to_owned(), Some(5)), ("events.dlq".to_owned(), Some(2))];
    let sink = Arc::new(
        RivvenSink::start_with(&broker(std::slice::from_ref(&rivvend.address), 4), topics, QUICK).unwrap(),
    );
    let payloads: Vec<_> = (0..300).map(|n| (format!("dev/{}", n % 20), format!("{n:03}"))).collect();
    let messages: Vec<_> = payloads.iter().map(|(topic, value)| (topic.as_str(), value.as_bytes())).collect();
    let (mut delivery, settled) = delivery(&messages);
    delivery.outcome.verdicts = vec![Verdict::Pass; messages.len()];
    delivery.outcome.verdicts[7] = Verdict::Emit;
    delivery.outcome.outputs.of = vec![7];
    delivery.outcome.outputs.topics = column(&["not/legal"]);
    delivery.outcome.outputs.values = column(&["x"]);
    deliver(&sink, delivery).await.unwrap();
    assert_eq!(tally(settled).await, Tally { committed: 299, dropped: 0, dead_lettered: 1 });

    let mut client = Client::connect(&rivvend.address).await.unwrap();
    let records = consume(&mut client, "events").await;
    let mut values: Vec<_> = records.iter().map(|(_, _, value)| value.clone()).collect();
    values.sort();
    let expected: Vec<_> =
        payloads.iter().map(|(_, value)| value.clone()).filter(|value| value != "007").collect();
    assert_eq!(values, expected);
    for (topic, _) in &payloads {
        let of_key = || records.iter().filter(|(_, key, _)| key.as_ref() == Some(topic));
        assert!(of_key().map(|(_, _, value)| value).is_sorted());
        let partition = rivven_core::hash::murmur2_partition(topic.as_bytes(), 5);
        assert!(of_key().all(|(of_record, ..)| *of_record == partition));
    }
    let letters = consume(&mut client, "events.dlq").await;
    assert_eq!(letters.len(), 1);
    assert!(letters[0].2.contains(r#""payload_base64":"MDA3""#), "{}", letters[0].2);
}
