import java.io.InputStream;
import java.net.URI;
import java.net.URL;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** Gets a URL with both of the JVM's own clients: java -Dhttps.proxyHost=... Fetch.java URL. */
public class Fetch {
    public static void main(String[] arguments) throws Exception {
        try (InputStream stream = new URL(arguments[0]).openStream()) {
            System.out.print("URL: " + new String(stream.readAllBytes()));
        }
        HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0])).build();
        HttpResponse<String> response =
                HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        System.out.print("HttpClient: " + response.body());
    }
}
