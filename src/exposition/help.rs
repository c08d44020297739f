//! What `# HELP` says of each family; a test holds it to the families that there are.

/// For a name that has no text: a test sees to it that there is none.
pub(super) const NONE: &str = "See conntally's documentation.";

/// Of a family, by its name without `_total`.
pub(super) fn of(name: &str) -> &'static str {
    if let Some(counter) = name.strip_prefix("conntrack_table_") {
        return of_table(counter);
    }
    if let Some(rest) = name.strip_prefix("conntrack_") {
        return of_connections(rest);
    }
    let Some(rest) = name.strip_prefix("conntally_") else {
        return NONE;
    };
    match rest.split_once('_') {
        Some(("collector", rest)) => of_collector(rest),
        Some(("listener", rest)) => of_listener(rest),
        Some(("output", rest)) => of_output(rest),
        _ => of_process(rest),
    }
}

fn of_connections(name: &str) -> &'static str {
    match name {
        "opening_connections" => "TCP connections with the host that wait for an answer, now.",
        "open_connections" => "Established TCP connections with the host, now.",
        "closing_connections" => "TCP connections with the host that one side has ended, now.",
        "closed_connections" => "TCP connections with the host that were torn down, now.",
        "opened" => "Connections that began, short ones included.",
        "closed" => "Connections that ended well.",
        "failed" => "Connections that were never established or were torn down.",
        "bytes" => "Bytes that connections with the host carried.",
        "packets" => "Packets that connections with the host carried.",
        "durations" => "Connections that ended and of which it is known how long they lasted.",
        "duration_seconds" => "How long they lasted, together.",
        "hosts" => "Remote hosts seen in the last tick.",
        "hosts_folded" => "Remote hosts of the last tick that were counted as other or public.",
        _ => NONE,
    }
}

/// The kernel's own, by `conntrack -S` and `net/netfilter/nf_conntrack_core.c`.
fn of_table(name: &str) -> &'static str {
    match name {
        "entries" => "Entries in the connection tracking table.",
        "limit" => "Most entries that the kernel admits.",
        "found" => "Entries that were found where a packet of another was to be inserted.",
        "invalid" => "Packets that could not be tracked.",
        "insert" => "Entries made by way of netlink.",
        "insert_failed" => "Entries that could not be inserted.",
        "drop" => "Packets dropped for want of an entry.",
        "early_drop" => "Entries dropped to make room in a full table.",
        "error" => "Packets that tracking refused as erroneous.",
        "search_restart" => "Look-ups begun anew since the table was resized.",
        "clash_resolve" => "Insertions that clashed and were resolved.",
        "chaintoolong" => "Entries not inserted since their chain was too long.",
        _ => NONE,
    }
}

fn of_collector(name: &str) -> &'static str {
    match name {
        "source" => "1 for where connections are read from now.",
        "mode" => "1 for how connections are followed now.",
        "dumps" => "Dumps finished.",
        "skipped_ticks" => "Ticks that found the collector still at the last one.",
        "undecoded" => "Entries that could not be decoded.",
        "dump_entries" => "Entries of the last dump.",
        "dump_duration_seconds" => "How long the last dump took.",
        "errors" => "Failures to read the kernel's tables.",
        "events" => "Events taken.",
        "events_lost" => "Events that the kernel dropped for want of room.",
        "overruns" => "Times that there was no room for events.",
        "resyncs" => "Dumps that corrected the flow table.",
        "flows_opened" => "Flows that were seen to begin.",
        "flows_picked_up" => "Flows that the kernel picked up in mid-stream.",
        "flows_found" => "Flows that were there at the start.",
        "flows_closed" => "Flows that ended well.",
        "flows_failed" => "Flows that were never established or were torn down.",
        "flows_forgotten" => "Flows whose ends nobody saw, since another source took over.",
        "corrections" => "What a dump put right in the flow table.",
        "mode_changes" => "Changes from one mode to another.",
        "flows" => "Flows in the flow table.",
        "flow_table_bytes" => "Memory of the flow table.",
        "event_buffer_bytes" => "Room for events in the kernel.",
        "paused" => "1 while the collector was told to read nothing.",
        _ => NONE,
    }
}

fn of_listener(name: &str) -> &'static str {
    match name {
        "connections" => "Connections open now.",
        "accepted" => "Connections taken.",
        "refused" => "Connections not taken.",
        "closed" => "Connections ended.",
        "frames" => "Frames, datagrams, or lines where they are not framed.",
        "bytes" => "Bytes read.",
        "lines" => "Lines handed on.",
        "lines_filtered" => "Lines that allow and deny left out.",
        "lines_dropped" => "Lines dropped.",
        "frames_dropped" => "Frames dropped whole.",
        "waits" => "Reads that waited for room in an output's queue.",
        "throttled" => "Reads that waited for their connection's rate.",
        "throttled_seconds" => "How long reads waited for their connection's rate.",
        "pressure_waits" => "Reads that waited for want of memory.",
        "pressure_seconds" => "How long reads waited for want of memory.",
        "abandoned_bytes" => "Bytes left in senders' sockets at the stop.",
        "rebinds" => "New sockets for a socket file that was gone.",
        "path_lost" => "1 while a unix socket's path leads to nothing or to somebody else.",
        "kernel_drops" => "Datagrams that the kernel dropped for want of room.",
        _ => NONE,
    }
}

fn of_output(name: &str) -> &'static str {
    match name {
        "lines" => "Lines offered to the output.",
        "lines_filtered" => "Lines that only left out before.",
        "lines_sent" => "Lines handed to the transport.",
        "lines_merged" => "Lines that went into others of their context.",
        "lines_dropped" => "Lines dropped.",
        "bytes_dropped_queue" => "Bytes of lines that found no room.",
        "bytes_dropped_writer" => "Bytes of lines given up on their way to the transport.",
        "lines_spooled" => "Lines written to the spool.",
        "lines_held" => "Lines in the queue, in the backlog, or on their way.",
        "lines_at_risk" => "Lines sent by a connection that was lost.",
        "contexts_merged" => "Contexts that lines were merged into.",
        "backlog_contexts" => "Contexts in the backlog.",
        "backlog_bytes" => "Memory of the backlog.",
        "payloads" => "Payloads sent.",
        "bytes" => "Bytes sent.",
        "throttled" => "Payloads that waited for the rate.",
        "throttled_seconds" => "How long payloads waited for the rate.",
        "connects" => "Connections made.",
        "errors" => "Failures to send.",
        _ => NONE,
    }
}

fn of_process(name: &str) -> &'static str {
    match name {
        "uptime_seconds" => "How long the daemon has run.",
        "memory_resident_bytes" => "Resident memory of the daemon.",
        "admin_requests" => "Requests to the admin socket.",
        "admin_refused" => "Requests and connections to the admin socket that were refused.",
        "http_requests" => "Requests to the HTTP endpoint.",
        "http_refused" => "Connections refused, and scrapes that went without connections.",
        "http_looks" => "Looks at the kernel's tables, each for all scrapes of a second.",
        "http_look_errors" => "Looks that failed or were not done in time.",
        _ => NONE,
    }
}
