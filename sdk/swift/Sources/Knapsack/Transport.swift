import CKnapsack
import Foundation

#if canImport(FoundationNetworking)
    import FoundationNetworking
#endif

/// Moves the bytes of downloads by `URLSession`. Which bytes, and whether they are right, is decided on the other side.
final class Transport: NSObject, URLSessionDataDelegate, @unchecked Sendable {
    let network = Guarded(Network.any)
    private let bodies = Guarded<[Int: Body]>([:])
    private let delegates: OperationQueue = {
        let queue = OperationQueue()
        queue.maxConcurrentOperationCount = 1
        return queue
    }()
    private let sessions = Guarded<[Bool: URLSession]>([:])

    deinit {
        for session in sessions.with({ Array($0.values) }) { session.invalidateAndCancel() }
    }

    var functions: KnapsackTransport {
        KnapsackTransport(
            context: Unmanaged.passUnretained(self).toOpaque(),
            get: { context, url, from, body, wait in
                let transport = Unmanaged<Transport>.fromOpaque(context!).takeUnretainedValue()
                let (status, found, seconds) = transport.get(String(url), from)
                wait!.pointee = seconds
                if let found { body!.pointee = Unmanaged.passRetained(found).toOpaque() }
                return status
            },
            read: { _, body, buffer, length in
                Int64(Unmanaged<Body>.fromOpaque(body!).takeUnretainedValue().read(buffer!, length))
            },
            end: { _, body in Unmanaged<Body>.fromOpaque(body!).takeRetainedValue().end() })
    }

    /// The session of the allowed networks. A session keeps its delegate alive, so the delegate is an object of its own.
    private func session() -> URLSession {
        let unmetered = network.with { $0 == .unmetered }
        return sessions.with { sessions in
            if let session = sessions[unmetered] { return session }
            let configuration = URLSessionConfiguration.ephemeral
            configuration.timeoutIntervalForRequest = 60
            configuration.httpAdditionalHeaders = ["Accept-Encoding": "identity"]
            #if !canImport(FoundationNetworking)
                configuration.allowsExpensiveNetworkAccess = !unmetered
                configuration.allowsConstrainedNetworkAccess = !unmetered
            #endif
            let session = URLSession(configuration: configuration, delegate: Forward(self), delegateQueue: delegates)
            sessions[unmetered] = session
            return session
        }
    }

    private func get(_ address: String, _ from: UInt64) -> (status: Int32, body: Body?, wait: UInt64) {
        guard let url = URL(string: address) else { return (0, nil, 0) }
        var request = URLRequest(url: url)
        if from > 0 { request.setValue("bytes=\(from)-", forHTTPHeaderField: "Range") }
        let task = session().dataTask(with: request)
        let body = Body(task)
        bodies.with { $0[task.taskIdentifier] = body }
        task.resume()
        guard let response = body.response() else { return (0, nil, 0) }
        guard response.statusCode == 200 || response.statusCode == 206 else {
            let wait = response.value(forHTTPHeaderField: "Retry-After").flatMap { UInt64($0) } ?? 0
            body.end()
            return (Int32(response.statusCode), nil, wait)
        }
        return (Int32(response.statusCode), body, 0)
    }

    fileprivate func received(_ task: URLSessionTask, _ response: HTTPURLResponse?) { find(task)?.received(response) }
    fileprivate func received(_ task: URLSessionTask, _ data: Data) { find(task)?.received(data) }
    fileprivate func completed(_ task: URLSessionTask, _ error: (any Error)?) {
        bodies.with { $0.removeValue(forKey: task.taskIdentifier) }?.completed(error)
    }
    private func find(_ task: URLSessionTask) -> Body? { bodies.with { $0[task.taskIdentifier] } }
}

/// What a session calls; it does not keep the transport alive.
private final class Forward: NSObject, URLSessionDataDelegate, @unchecked Sendable {
    private weak var transport: Transport?
    init(_ transport: Transport) { self.transport = transport }

    func urlSession(
        _ session: URLSession, dataTask: URLSessionDataTask, didReceive response: URLResponse,
        completionHandler: @escaping @Sendable (URLSession.ResponseDisposition) -> Void
    ) {
        transport?.received(dataTask, response as? HTTPURLResponse)
        completionHandler(.allow)
    }

    func urlSession(_ session: URLSession, dataTask: URLSessionDataTask, didReceive data: Data) {
        transport?.received(dataTask, data)
    }

    func urlSession(_ session: URLSession, task: URLSessionTask, didCompleteWithError error: (any Error)?) {
        transport?.completed(task, error)
    }
}

/// The bytes of one answer, from the session's thread to the download's.
private final class Body: @unchecked Sendable {
    /// More than so many bytes that nobody has read stop the task until half of them are gone.
    private static let most = 4 << 20
    private let task: URLSessionDataTask
    private let condition = NSCondition()
    private var head: HTTPURLResponse?
    private var chunks: [Data] = []
    private var held = 0
    private var ended = false
    private var failed = false
    private var suspended = false

    init(_ task: URLSessionDataTask) { self.task = task }

    private func locked<R>(_ body: () -> R) -> R {
        condition.lock()
        defer { condition.unlock() }
        return body()
    }

    func received(_ response: HTTPURLResponse?) {
        locked {
            head = response
            condition.broadcast()
        }
    }

    func received(_ data: Data) {
        locked {
            chunks.append(data)
            held += data.count
            #if !canImport(FoundationNetworking)
                if held > Self.most && !suspended {
                    suspended = true
                    task.suspend()
                }
            #endif
            condition.broadcast()
        }
    }

    func completed(_ error: (any Error)?) {
        locked {
            ended = true
            failed = error != nil
            condition.broadcast()
        }
    }

    /// The head of the answer; nil when there is none.
    func response() -> HTTPURLResponse? {
        locked {
            while head == nil && !ended { condition.wait() }
            return head
        }
    }

    func read(_ buffer: UnsafeMutablePointer<UInt8>, _ length: Int) -> Int {
        locked {
            while chunks.isEmpty && !ended { condition.wait() }
            guard var first = chunks.first else { return failed ? -1 : 0 }
            let count = min(length, first.count)
            first.copyBytes(to: buffer, count: count)
            if count == first.count {
                chunks.removeFirst()
            } else {
                first = first.dropFirst(count)
                chunks[0] = first
            }
            held -= count
            if suspended && held < Self.most / 2 {
                suspended = false
                task.resume()
            }
            return count
        }
    }

    func end() { task.cancel() }
}
