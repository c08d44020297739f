//! The flow table, page by page.

use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::give_up;
use crate::admin::body::{Lines, object};
use crate::collector::command::{CollectorHandle, TableRow};

#[derive(Serialize)]
struct RowObject<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    row: &'a TableRow,
}

#[derive(Serialize)]
struct RowsEnd {
    r#type: &'static str,
    rows: u64,
}

pub(super) async fn tables(
    collector: CollectorHandle,
    mut lines: Lines,
    permit: OwnedSemaphorePermit,
) {
    let all = async {
        let mut rows = 0;
        let mut from = 0;
        loop {
            let page = match collector.table(from).await {
                Ok(page) => page,
                Err(error) => return give_up(lines, &error.to_string()).await,
            };
            for row in &page.rows {
                let row = RowObject {
                    r#type: "flow",
                    row,
                };
                lines.add(|out| object(out, &row)).await?;
            }
            rows += page.rows.len() as u64;
            match page.next {
                Some(next) if next > from => from = next,
                _ => break,
            }
        }
        let end = RowsEnd {
            r#type: "end",
            rows,
        };
        lines.add(|out| object(out, &end)).await?;
        lines.finish().await
    };
    // Nobody is there to be told if it fails.
    let _gone = all.await;
    drop(permit);
}
