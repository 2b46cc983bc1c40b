use kvtyped::prelude::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", history = 5)]
struct Document {
    id: u64,
}

async fn expire(documents: Bucket<Document>) {
    let document = Document { id: 1 };
    let _ = documents.put(&document).ttl(Duration::from_secs(60)).await;
}

fn main() {
    let _ = expire;
}
