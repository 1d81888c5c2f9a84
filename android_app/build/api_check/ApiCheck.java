import java.io.File;
import java.io.FileInputStream;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.Set;
import org.codehaus.mojo.animal_sniffer.SignatureChecker;
import org.codehaus.mojo.animal_sniffer.logging.PrintWriterLogger;

/** Prints what the classes in jars use that a signature file of animal-sniffer lacks. */
public class ApiCheck {
    /** Arguments: the signature file, ignored packages with commas between them, the jars. */
    public static void main(String[] arguments) throws Exception {
        Set<String> ignored = new HashSet<>(Arrays.asList(arguments[1].split(",")));
        try (FileInputStream signature = new FileInputStream(arguments[0])) {
            SignatureChecker checker =
                    new SignatureChecker(signature, ignored, new PrintWriterLogger(System.out));
            checker.setSourcePath(Collections.emptyList());
            for (int index = 2; index < arguments.length; index++) {
                checker.process(new File(arguments[index]));
            }
        }
    }
}
