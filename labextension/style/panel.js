import "./monitor.css";
import "./panel.css";
