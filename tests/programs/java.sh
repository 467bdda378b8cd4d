# A compiler in Java, and a program: threads, HTTP, mapped files, processes, a watched folder, two garbage collectors.
set -eu
cd /workspace
cat >Main.java <<'JAVA'
import java.io.*;
import java.net.*;
import java.net.http.*;
import java.nio.*;
import java.nio.channels.*;
import java.nio.file.*;
import java.util.concurrent.*;
import java.util.stream.*;

public class Main {
    public static void main(String[] args) throws Exception {
        if (IntStream.range(0, 1000000).parallel().filter(n -> n % 2 == 0).count() != 500000) throw new Error("parallel");
        ExecutorService pool = Executors.newFixedThreadPool(8);
        Future<Integer> answer = pool.submit(() -> 42);
        if (answer.get() != 42) throw new Error("pool");
        pool.shutdown();
        Path file = Path.of("/workspace/mapped");
        try (FileChannel channel = FileChannel.open(file, StandardOpenOption.CREATE, StandardOpenOption.READ, StandardOpenOption.WRITE)) {
            MappedByteBuffer view = channel.map(FileChannel.MapMode.READ_WRITE, 0, 1 << 20);
            view.put(5, (byte) 7);
            view.force();
            try (FileLock lock = channel.lock()) { channel.transferTo(0, 1 << 20, FileChannel.open(Path.of("/dev/null"), StandardOpenOption.WRITE)); }
        }
        WatchService watch = FileSystems.getDefault().newWatchService();
        Path.of("/workspace").register(watch, StandardWatchEventKinds.ENTRY_CREATE);
        Files.deleteIfExists(Files.writeString(Path.of("/workspace/new"), "x"));
        if (watch.poll(10, TimeUnit.SECONDS) == null) throw new Error("watch");
        Process child = new ProcessBuilder("sh", "-c", "read x; echo $x").start();
        child.getOutputStream().write("said\n".getBytes());
        child.getOutputStream().close();
        if (!new String(child.getInputStream().readAllBytes()).equals("said\n") || child.waitFor() != 0) throw new Error("child");
        ServerSocketChannel server = ServerSocketChannel.open().bind(new InetSocketAddress("127.0.0.1", 0));
        Thread serving = new Thread(() -> {
            try (SocketChannel peer = server.accept()) {
                peer.read(ByteBuffer.allocate(4096));
                peer.write(ByteBuffer.wrap("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi".getBytes()));
            } catch (IOException e) { throw new Error(e); }
        });
        serving.start();
        int port = ((InetSocketAddress) server.getLocalAddress()).getPort();
        HttpRequest request = HttpRequest.newBuilder(URI.create("http://127.0.0.1:" + port + "/")).version(HttpClient.Version.HTTP_1_1).build();
        if (!HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body().equals("hi")) throw new Error("http");
        serving.join();
        ServerSocketChannel local = ServerSocketChannel.open(StandardProtocolFamily.UNIX).bind(UnixDomainSocketAddress.of("/workspace/socket"));
        SocketChannel.open(UnixDomainSocketAddress.of("/workspace/socket")).close();
        Files.delete(Path.of("/workspace/socket"));
        System.out.println("java " + Runtime.version().feature() + " " + NetworkInterface.networkInterfaces().count());
        System.exit(0);
    }
}
JAVA
ecj -proc:none -nowarn -17 -d . Main.java
for collector in G1 Parallel Serial Z; do java -XX:+Use${collector}GC -cp . Main; done
echo end
